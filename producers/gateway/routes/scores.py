"""`POST /score` and `POST /rerank`, as vLLM, Jina and Cohere have them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from ....schemas.events import JobResult
from ...openai.rerank import ScoreRequest, rerank_body, rerank_request, score_body, score_request
from ..auth import Caller
from ..bodies import aside, body_of, read_json
from ..generation import begin
from ..state import Gateway

router = APIRouter(tags=["scores"])

Read = Callable[[Mapping[str, Any]], ScoreRequest]
Write = Callable[[Sequence[JobResult], str, ScoreRequest], dict[str, Any]]


async def _answered(request: Request, caller: Caller, read: Read, write: Write) -> Response:
    asked = await aside(request, read, await read_json(request))

    async def jobs_for(model: str) -> list[dict[str, Any]]:
        known = await Gateway.of(request).model(model)
        return asked.jobs(model, None if known is None else known.task)

    made = await begin(request, caller, [asked.fields], store=False, max_tokens=1, jobs_for=jobs_for)
    return await made.answer(request, lambda results: write(results, made.model, asked))


async def score(request: Request, caller: Caller) -> Response:
    """How well documents answer queries: one query for all of them, or one for each."""
    return await _answered(request, caller, score_request, score_body)


async def rerank(request: Request, caller: Caller) -> Response:
    """A query's documents, the best first."""
    return await _answered(request, caller, rerank_request, rerank_body)


for _version in ("", "/v1"):
    router.add_api_route(
        f"{_version}/score",
        score,
        methods=["POST"],
        summary="Scores of documents",
        openapi_extra=body_of("model"),
    )
for _version in ("", "/v1", "/v2"):
    router.add_api_route(
        f"{_version}/rerank",
        rerank,
        methods=["POST"],
        summary="Documents, the best first",
        openapi_extra=body_of("query", "documents", "model"),
    )
