"""`/v1/messages`: Anthropic's API, for clients and agents that speak it."""

import json

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from ....schemas.events import JobResult
from ....schemas.wire import TokenizerTask
from ...anthropic.errors import anthropic_error
from ...anthropic.messages import MessageStream, count_body, message_body
from ...anthropic.request import count_fields, message_fields
from ...openai.options import flag
from ..auth import Caller
from ..bodies import aside, body_of, read_json
from ..generation import begin
from ..sse import STOPPED, event
from ..tokenizer_jobs import ask_tokenizer

router = APIRouter(prefix="/v1/messages", tags=["messages"])

CUT = STOPPED + event(
    json.dumps(anthropic_error(503, "The gateway is stopping; send the request again.")), name="error"
)


@router.post("", summary="Answer in a conversation", openapi_extra=body_of("max_tokens", "messages", "model"))
async def create_message(request: Request, caller: Caller) -> Response:
    """Anthropic's message, streamed or whole."""
    body = await read_json(request)
    stream, fields = flag(body, "stream"), await aside(request, message_fields, body)
    asked = {**fields, "stream": stream}
    generation = await begin(request, caller, [asked], store=False, max_tokens=1)
    (job,), model = generation.jobs, generation.model
    if stream:
        return await generation.stream(request, [MessageStream(job.id, model)], named=True, cut=CUT)
    return await generation.answer(request, lambda results: message_body(_only(results), model))


@router.post("/count_tokens", summary="Count a prompt's tokens", openapi_extra=body_of("messages", "model"))
async def count_tokens(request: Request, caller: Caller) -> Response:
    """The number of tokens in a prompt, as its model's own worker counts them. Nothing is generated."""
    fields = await aside(request, count_fields, await read_json(request))
    asked = await ask_tokenizer(request, caller, fields, TokenizerTask(kind="count"))
    return await asked.answer(request, lambda results: count_body(_only(results)))


def _only(results: list[JobResult]) -> JobResult:
    (result,) = results
    return result
