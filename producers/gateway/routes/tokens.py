"""`POST /tokenize` and `POST /detokenize`, vLLM's routes, answered by a worker that has the tokenizer."""

from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from ....schemas.job import Job, JobClass
from ....schemas.wire import TokenizerTask, WireJob
from ...openai.tokens import detokenize_body, detokenize_fields, tokenize_body, tokenize_fields
from ..aliases import HEADER, route
from ..auth import Access, Caller
from ..bodies import body_of, read_json
from ..generation import Generation
from ..jobs import enqueue, usual_class
from ..state import Gateway

router = APIRouter(tags=["tokens"])


@router.post("/tokenize", summary="The token ids of a prompt or messages", openapi_extra=body_of("model"))
async def tokenize(request: Request, caller: Caller) -> Response:
    """Token ids, as the model's own worker counts them. Nothing is generated."""
    asked = await _ask(request, caller, *tokenize_fields(await read_json(request)))
    context_tokens = await asked.gateway.context_tokens(asked.model)
    return await asked.answer(request, lambda results: tokenize_body(results[0], context_tokens))


@router.post("/detokenize", summary="The text of token ids", openapi_extra=body_of("model", "tokens"))
async def detokenize(request: Request, caller: Caller) -> Response:
    """Text, special tokens included."""
    asked = await _ask(request, caller, *detokenize_fields(await read_json(request)))
    return await asked.answer(request, lambda results: detokenize_body(results[0]))


async def _ask(request: Request, caller: Access, fields: dict[str, Any], task: TokenizerTask) -> Generation:
    gateway = Gateway.of(request)
    routed = await route(gateway, caller, fields)
    urgent = JobClass.INTERACTIVE in caller.classes
    job_class = JobClass.INTERACTIVE if urgent else usual_class(gateway, caller)
    job = Job.make(**fields, job_class=job_class, max_tokens=1, stream=False, tenant=caller.tenant)
    wanted = WireJob.of(job).model_copy(update={"tokenizer": task})
    handle = await enqueue(gateway, caller, wanted, routed)
    gateway.add_headers(request, {HEADER: routed.model})
    return Generation(gateway, [handle], keep=False)
