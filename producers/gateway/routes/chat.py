"""`POST /v1/chat/completions`, and `GET` of an earlier one."""

from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from ....schemas.events import JobResult
from ....schemas.ids import made_s
from ...async_client import AsyncJobHandle
from ...openai.chat import ChatStream, chat_body, chat_fields
from ...openai.options import AnswerOptions, answer_options, number_of_choices
from ...openai.prompts import AboutPrompt, about_prompt
from ..auth import Caller
from ..bodies import aside, body_of, read_json
from ..errors import not_found
from ..generation import Generation, begin
from ..jobs import status_of
from ..state import Gateway

router = APIRouter(prefix="/v1/chat/completions", tags=["chat"])

ID = "chatcmpl-"


@router.post("", summary="Answer a chat, streamed or whole", openapi_extra=body_of("messages", "model"))
async def create_chat_completion(request: Request, caller: Caller) -> Response:
    """OpenAI's chat completion."""
    body = await read_json(request)
    options, fields = answer_options(body), await aside(request, chat_fields, body)
    # OpenAI's default is all that the context has room for; a full context ends the answer.
    cache_key = body.get("prompt_cache_key")
    generation = await begin(
        request, caller, [_asked(fields, options)], store=options.store, cache_key=cache_key
    )
    return await _answer(request, generation, options, about_prompt(body, None), number_of_choices(body))


@router.get("/{completion_id}", summary="Read a chat completion again, or continue its stream")
async def get_chat_completion(
    completion_id: str, request: Request, caller: Caller, stream: bool = False, include_usage: bool = False
) -> Response:
    """The answer of an earlier request, as long as its job is kept."""
    gateway = Gateway.of(request)
    if not completion_id.startswith(ID):
        raise not_found("chat completion", completion_id)
    status = await status_of(gateway, caller, completion_id.removeprefix(ID), "chat completion")
    generation = Generation(gateway, [gateway.client.job(status.job_id)], keep=True)
    return await _answer(request, generation, AnswerOptions(stream, include_usage), n=status.n)


def _asked(fields: Mapping[str, Any], options: AnswerOptions) -> dict[str, Any]:
    return {**fields, "stream": options.stream}


async def _answer(
    request: Request,
    generation: Generation,
    options: AnswerOptions,
    prompt: AboutPrompt | None = None,
    n: int = 1,
) -> Response:
    (job,), model = generation.jobs, generation.model
    if options.stream:
        form = (options.include_usage, options.return_token_ids, n)
        shape = ChatStream(job.id, model, made_s(job.id), *form)
        return await generation.stream(request, [shape])
    return await generation.answer(request, lambda results: _body(job, model, results, options, prompt))


def _body(
    job: AsyncJobHandle,
    model: str,
    results: list[JobResult],
    options: AnswerOptions,
    prompt: AboutPrompt | None,
) -> dict[str, Any]:
    (result,) = results
    return chat_body(result, model, made_s(job.id), return_token_ids=options.return_token_ids, prompt=prompt)
