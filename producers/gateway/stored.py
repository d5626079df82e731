"""Stored responses: finding one of the caller's, and its current state.

A response is its job, seen as OpenAI shows it. What it repeats of its request is stored beside the job; its
answer is added when somebody sees it whole, and from then on it needs the job no more.
"""

from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from ...schemas.errors import (
    HeadraceError,
    JobCancelled,
    JobExpired,
    JobFailed,
    JobNotFound,
    ResultTimeout,
)
from ...schemas.events import JobState
from ...schemas.ids import made_s
from ..openai.responses.body import Response
from ..openai.responses.items import Item, answered
from ..openai.responses.stream import ResponseStream
from ..operate.responses import StoredResponse
from .auth import Access
from .errors import Refusal, not_found
from .state import Gateway

ID = "resp_"

UNANSWERED = (JobFailed, JobCancelled, JobExpired)
"""How a job ends without an answer."""


@dataclass(frozen=True, slots=True)
class Kept:
    """One stored response of the caller."""

    gateway: Gateway
    job_id: str
    stored: StoredResponse

    @property
    def response(self) -> Response:
        """The response, of which any status can be shown."""
        return Response(self.job_id, made_s(self.job_id), self.stored.echo)

    async def keep(self) -> None:
        """Store it."""
        ttl_s = self.gateway.settings.gateway_response_s
        await self.gateway.client.admin.keep_response(self.job_id, self.stored, ttl_s=ttl_s)

    async def settle(self, answer: dict[str, Any]) -> None:
        """Add the answer, unless it was deleted; without Redis the job still has it."""
        with suppress(HeadraceError):
            await Kept(self.gateway, self.job_id, self.stored.model_copy(update={"answer": answer})).keep()

    async def body(self, wait_s: float = 0.0) -> dict[str, Any]:
        """The response's current state, or its end if that comes within this time.

        Raises:
            Refusal: its job's retention ended before anybody saw the answer.
        """
        if self.stored.answer is not None:
            return self.stored.answer
        job = self.gateway.client.job(self.job_id)
        try:
            state = (await job.status()).state
            if not state.terminal and not wait_s:
                return self.response.pending("in_progress" if state == JobState.RUNNING else "queued")
            answer = await self._ended(wait_s)
        except JobNotFound:
            raise not_found("response", self.response.id) from None
        except ResultTimeout:
            return self.response.pending("in_progress")
        await self.settle(answer)
        return answer

    async def _ended(self, wait_s: float) -> dict[str, Any]:
        """The response at its end; one without an answer has what there is of its text."""
        job, stream = self.gateway.client.job(self.job_id), ResponseStream(self.response)
        wait_s = wait_s or self.gateway.settings.gateway_wait_s
        try:
            return self.response.ended(await job.result(wait_s))
        except UNANSWERED as error:
            with suppress(*UNANSWERED):
                async for chunk in job.stream(timeout_s=wait_s):
                    stream.chunk(chunk)
            return dict(stream.failed(error)[-1]["response"])

    async def conversation(self) -> list[Item]:
        """The conversation with its answer, for another response to continue.

        Raises:
            Refusal: there is no answer, or none yet.
        """
        body = await self.body()
        if body["status"] not in ("completed", "incomplete"):
            message = (
                f"previous_response_id: that response is {body['status']}; it has no answer to continue."
            )
            raise Refusal(400, message, code="previous_response_not_ended", param="previous_response_id")
        return [*self.stored.items, *answered(body["output"])]


async def find(gateway: Gateway, caller: Access, response_id: str) -> Kept:
    """The caller's stored response.

    Raises:
        Refusal: there is none of that id, or it is another tenant's: the answer is the same.
    """
    job_id = response_id.removeprefix(ID)
    stored = None
    if response_id.startswith(ID):
        with suppress(JobNotFound):
            stored = await gateway.client.admin.response(job_id)
    if stored is None or stored.tenant != caller.tenant:
        raise not_found("response", response_id)
    return Kept(gateway, job_id, stored)


async def earlier_items(gateway: Gateway, caller: Access, response_id: str | None) -> list[Item]:
    """The conversation that a request continues.

    Raises:
        Refusal: the caller has no such response, or it can't be continued.
    """
    if response_id is None:
        return []
    try:
        kept = await find(gateway, caller, response_id)
        return await kept.conversation()
    except Refusal as refusal:
        if refusal.status != 404:
            raise
        message = f"previous_response_id: {refusal.message}"
        code = "previous_response_not_found"
        raise Refusal(400, message, code=code, param="previous_response_id") from None
