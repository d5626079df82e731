"""Reading a request's JSON, within bounds that hold for every body."""

import asyncio
import json
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from pydantic_core import from_json
from starlette.requests import ClientDisconnect, Request

from ...schemas.plain_json import check_json
from .errors import Refusal

SMALL_BYTES = 32 * 2**10
"""A body up to this size is read and checked at once; a larger one in a thread, so that other requests don't
wait for it."""

P = ParamSpec("P")
T = TypeVar("T")


def body_of(*required: str) -> dict[str, Any]:
    """What `/openapi.json` says of a route's body: it is read here, and its fields elsewhere."""
    properties: dict[str, Any] = {name: {} for name in required}
    schema = {"type": "object", "required": list(required), "properties": properties}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


async def read_json(request: Request) -> dict[str, Any]:
    """The request's body, a JSON object.

    Raises:
        Refusal: it isn't one, or it can't be passed on: it is too deep, or has too long a number or half a
            character.
    """
    kind = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise Refusal(415, "Send JSON, with `Content-Type: application/json`.", code="unsupported_media_type")
    try:
        raw = await request.body()
    except ClientDisconnect:
        raise Refusal(400, "The body ended early.", code="incomplete_body") from None
    return await aside(request, _parsed, raw)


async def aside(request: Request, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Do what takes as long as the request's body is large; in a thread if that is long for the others."""
    if len(await request.body()) <= SMALL_BYTES:
        return work(*args, **kwargs)
    return await asyncio.to_thread(work, *args, **kwargs)


def _parsed(raw: bytes) -> dict[str, Any]:
    try:
        body = _quickly(raw) if len(raw) > SMALL_BYTES else None
        if body is None:
            body = json.loads(raw.decode(), parse_constant=_no_number)
    except UnicodeDecodeError as error:
        raise _invalid(f"byte {error.start} is not UTF-8") from None
    except json.JSONDecodeError as error:
        raise _invalid(f"{error.msg} at line {error.lineno}, column {error.colno}") from None
    except RecursionError:
        raise _invalid("it is nested too deeply") from None
    except ValueError as error:
        known = isinstance(error, _NoNumber)
        raise _invalid(str(error) if known else "a whole number has too many digits") from None
    if not isinstance(body, dict):
        raise _invalid("it must be an object")
    for name, value in body.items():
        try:
            check_json(name)
            check_json(value)
        except ValueError as error:
            shown = name[:64].encode(errors="replace").decode()
            raise Refusal(400, f"{shown}: {error}", code="invalid_json", param=shown) from None
    return body


def _quickly(raw: bytes) -> Any:
    """The body by a parser that takes a fifth of the time; None for the other to say what is wrong."""
    try:
        return from_json(raw, allow_inf_nan=False)
    except ValueError:
        return None


class _NoNumber(ValueError):
    pass


def _no_number(name: str) -> None:
    raise _NoNumber(f"{name} is no number that JSON knows")


def _invalid(reason: str) -> Refusal:
    return Refusal(400, f"The body is not valid JSON: {reason}.", code="invalid_json")
