"""Whole answers. One of many numbers is made beside the event loop, which streams of tokens wait for."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pydantic_core import to_json
from starlette.responses import JSONResponse, Response

from ...schemas.events import JobResult

FEW_NUMBERS = 5000
"""In 5 ms they are JSON; the 2,048 vectors of one request for embeddings would take seconds."""


async def answer_of(results: list[JobResult], body: Callable[[list[JobResult]], dict[str, Any]]) -> Response:
    """The answer whose body is made of these results."""
    if sum(map(_numbers, results)) <= FEW_NUMBERS:
        return JSONResponse(body(results))
    content = await asyncio.to_thread(lambda: in_pieces(body(results)))
    return Response(content, media_type="application/json")


def in_pieces(body: Mapping[str, Any]) -> bytes:
    """A body as JSON. The parts of its lists are written one by one: other threads run only in between."""
    members = [to_json(name) + b":" + _member(value) for name, value in body.items()]
    return b"{" + b",".join(members) + b"}"


def _member(value: Any) -> bytes:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return b"[" + b",".join(map(to_json, value)) + b"]"
    return to_json(value)


def _numbers(result: JobResult) -> int:
    """How many numbers an answer may have of a result, besides a few for each token of it."""
    return len(result.embedding or ()) + sum(1 + len(entry.top) for entry in result.prompt_logprobs or ())
