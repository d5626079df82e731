"""`POST /v1/embeddings`."""

from functools import partial

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from ...openai.embeddings import embedding_body, embedding_jobs, encoding_of
from ..auth import Caller
from ..bodies import aside, body_of, read_json
from ..errors import Refusal
from ..generation import begin

router = APIRouter(tags=["embeddings"])

NOT_HERE = ("classify", "pooling")
"""vLLM's other routes for models that don't generate."""


@router.post("/v1/embeddings", summary="Vectors of texts", openapi_extra=body_of("input", "model"))
async def create_embeddings(request: Request, caller: Caller) -> Response:
    """OpenAI's embeddings of one input or several, each of which is a job."""
    body = await read_json(request)
    asked = await begin(
        request, caller, await aside(request, embedding_jobs, body), store=False, max_tokens=1
    )
    encoding = encoding_of(body)
    return await asked.answer(request, lambda results: embedding_body(results, asked.model, encoding))


async def refuse_other_pooling(path: str) -> Response:
    """Say what there is instead."""
    there = "/v1/embeddings, /v1/score and /v1/rerank"
    message = f"{path} is not supported; of what vLLM calls pooling there are {there}."
    raise Refusal(404, message, code="unknown_url")


for _path in (f"{version}/{name}" for version in ("", "/v1", "/v2") for name in NOT_HERE):
    refuse = partial(refuse_other_pooling, _path)
    router.add_api_route(_path, refuse, methods=["POST"], include_in_schema=False)
