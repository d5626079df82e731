"""`POST /v1/embeddings`."""

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from ...openai.embeddings import embedding_body, embedding_jobs, encoding_of
from ..auth import Caller
from ..bodies import body_of, read_json
from ..generation import begin

router = APIRouter(tags=["embeddings"])


@router.post("/v1/embeddings", summary="Vectors of texts", openapi_extra=body_of("input", "model"))
async def create_embeddings(request: Request, caller: Caller) -> Response:
    """OpenAI's embeddings of one input or several, each of which is a job."""
    body = await read_json(request)
    asked = await begin(request, caller, embedding_jobs(body), store=False, max_tokens=1)
    encoding = encoding_of(body)
    return await asked.answer(request, lambda results: embedding_body(results, asked.model, encoding))
