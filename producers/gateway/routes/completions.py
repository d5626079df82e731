"""`POST /v1/completions`."""

from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from ....schemas.errors import HeadraceError
from ....schemas.events import Chunk, JobResult
from ....schemas.ids import made_s
from ...openai.completions import CompletionStream, about_prompts, completion_body, completion_jobs
from ...openai.options import answer_options, number_of_choices
from ..auth import Caller
from ..bodies import aside, body_of, read_json
from ..generation import begin

router = APIRouter(prefix="/v1/completions", tags=["completions"])

USUAL_MAX_TOKENS = 16
"""OpenAI's default."""


@router.post("", summary="Continue a prompt, streamed or whole", openapi_extra=body_of("prompt", "model"))
async def create_completion(request: Request, caller: Caller) -> Response:
    """OpenAI's completion of one prompt or several."""
    body = await read_json(request)
    options = answer_options(body)
    asked = [{**fields, "stream": options.stream} for fields in await aside(request, completion_jobs, body)]
    generation = await begin(
        request,
        caller,
        asked,
        store=options.store,
        max_tokens=USUAL_MAX_TOKENS,
        cache_key=body.get("prompt_cache_key"),
    )
    prompts = about_prompts(body)
    first, model = generation.jobs[0].id, generation.model
    form, count = (model, made_s(first)), number_of_choices(body)
    if options.stream:
        ended: list[JobResult] = []
        shapes = [
            _PromptOfSeveral(
                CompletionStream(
                    first,
                    *form,
                    options.include_usage,
                    options.return_token_ids,
                    index=index * count,
                    prompt=prompts[index],
                    n=count,
                ),
                ended,
                len(asked),
            )
            for index in range(len(asked))
        ]
        return await generation.stream(request, shapes)
    return await generation.answer(
        request,
        lambda results: completion_body(
            *results,
            model=model,
            created=made_s(first),
            return_token_ids=options.return_token_ids,
            prompts=prompts,
        ),
    )


@dataclass(frozen=True, slots=True)
class _PromptOfSeveral:
    """The events of one prompt's choices; the last one's count of tokens is that of all.

    Attributes:
        shape: their own events.
        ended: the results so far, of all prompts.
        count: the number of prompts.
    """

    shape: CompletionStream
    ended: list[JobResult]
    count: int

    def start(self) -> list[dict[str, Any]]:
        return self.shape.start()

    def chunk(self, chunk: Chunk) -> list[dict[str, Any]]:
        return self.shape.chunk(chunk)

    def end(self, result: JobResult) -> list[dict[str, Any]]:
        events = self.shape.end(result)
        self.ended.append(result)
        counts = [event for event in events if not event["choices"]]
        if len(self.ended) < self.count:
            return events[: len(events) - len(counts)]
        for event in counts:
            event["usage"] = completion_body(*self.ended, model="", created=0)["usage"]
        return events

    def failed(self, error: HeadraceError) -> list[dict[str, Any]]:
        return self.shape.failed(error)
