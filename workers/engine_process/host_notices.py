"""Which jobs run here, as the host and the log are told.

The log gets one line when a job starts and one when it ends, without any of its prompt or answer. The host
gets as much of both as `show_prompts` allows, for Flower and `celery inspect`.
"""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

import structlog

from ...schemas.celery_task import read_headers
from ...schemas.events import FailureCode, JobError
from ...schemas.redaction import shown, shown_answer
from ...schemas.wire import WireJob
from ..supervision.pipe import JobLeft, JobStarted

if TYPE_CHECKING:
    from .running_job import RunningJob

log = structlog.get_logger(__name__)

LONGEST = 1024
"""Characters of a prompt or answer shown at most."""

LONGEST_NAME = 64
"""The longest valid tenant name; only a damaged record has a longer one."""


def introduction(job_id: str, job: WireJob, show: Literal["size", "start", "all"]) -> JobStarted:
    """The notice that a job has started."""
    if job.celery is None:
        args, kwargs = shown((), job.model_dump(mode="json", exclude_defaults=True), show)
        return JobStarted(job_id, job_id, args, _cut(kwargs))
    task = read_headers(job.celery)
    return JobStarted(
        job_id,
        task.id,
        _cut(task.argsrepr or ""),
        _cut(task.kwargsrepr or ""),
        task.root_id,
        task.parent_id,
        task.retries or 0,
    )


class HostNotices:
    """Tells the host, and the log, about the jobs of one engine process.

    Args:
        send: sends a notice to the host.
        show: how much of prompts and answers the host may see.
    """

    def __init__(
        self,
        send: Callable[[JobStarted | JobLeft], None] = lambda _: None,
        show: Literal["size", "start", "all"] = "size",
    ) -> None:
        self._send, self._show = send, show

    def started(self, running: "RunningJob") -> None:
        """The job runs here from now on."""
        log.info(
            "job_started",
            job=running.job_id,
            tenant=running.tenant[:LONGEST_NAME],
            job_class=running.job_class,
            attempts=running.attempts,
            resumed_at=running.resumed_at,
            prompt_tokens=running.prompt_tokens,
            waited_s=round(running.waited_s, 3),
        )
        if running.notice is not None:
            self._send(running.notice)

    def left(self, running: "RunningJob", how: str) -> None:
        """The job no longer runs here; `how` as in `JobLeft`."""
        self._log(running, how)
        text = self._reason(running.error) if running.error else ""
        if not text and how == "succeeded":
            answer = running.choices[0].answer if self._show != "size" else ""
            text = shown_answer(answer, running.tokens, self._show)
        self._send(JobLeft(running.job_id, how, _cut(text)))

    def _reason(self, error: JobError) -> str:
        """Why a job failed, without what a chat template's error may quote of the messages."""
        quotes = error.code == FailureCode.TEMPLATE and self._show != "all"
        return f"{error.code}: {error.message.partition(':')[0] if quotes else error.message}"

    def _log(self, running: "RunningJob", how: str) -> None:
        facts = {
            "job": running.job_id,
            "tenant": running.tenant[:LONGEST_NAME],
            "attempts": running.attempts,
            "prompt_tokens": running.prompt_tokens,
            "cached_tokens": running.cached_tokens,
            "output_tokens": running.tokens,
            "waited_s": round(running.waited_s, 3),
            "ran_s": round(time.monotonic() - running.claimed_at, 3),
        }
        if running.first_token_at is not None:
            facts["first_token_s"] = round(running.first_token_at - running.claimed_at, 3)
        if running.ended is None or how != running.ended:
            log.info("job_left", **facts, reason=how)
            return
        code = running.error.code if running.error else None
        log.info("job_ended", **facts, state=how, code=code, finish_reason=running.finish_reason)


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
