"""Requests that only a model's tokenizer answers, as jobs that generate nothing."""

from typing import Any

from starlette.requests import Request

from ...schemas.job import JobClass
from ...schemas.wire import TokenizerTask, WireJob
from .aliases import HEADER, enqueue_routed
from .auth import Access
from .bodies import aside
from .generation import Generation
from .jobs import job_of
from .limits import note_limits
from .state import Gateway


async def ask_tokenizer(
    request: Request, caller: Access, fields: dict[str, Any], task: TokenizerTask
) -> Generation:
    """Enqueue a job for the tokenizer of the model that `fields` name; urgent, if the key may be.

    Raises:
        Refusal, HeadraceError: it can't be enqueued.
    """
    gateway = Gateway.of(request)
    urgent = {"job_class": JobClass.INTERACTIVE} if JobClass.INTERACTIVE in caller.classes else {}
    asked = {**urgent, **fields, "stream": False}
    job = await aside(request, job_of, gateway, caller, asked, max_tokens=1)
    wanted, model = job.model_copy(update={"tokenizer": task}), job.model

    async def make(chosen: str) -> list[WireJob]:
        nonlocal model
        model = chosen
        return [wanted]

    try:
        jobs, _ = await enqueue_routed(gateway, caller, fields, make)
    finally:
        await note_limits(request, caller, model)
    gateway.add_headers(request, {HEADER: model})
    return Generation(gateway, jobs, keep=False, new=True)
