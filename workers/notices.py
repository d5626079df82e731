"""Tells the host which jobs run here, for Flower and `celery inspect`; as much of them as may be shown."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from ..schemas.events import FailureCode, JobError
from ..schemas.redaction import shown, shown_answer
from ..schemas.task_part import read_headers
from ..schemas.wire import WireJob
from .pipe import JobLeft, JobStarted

if TYPE_CHECKING:
    from .running_job import RunningJob

LONGEST = 1024
"""Characters shown of anything."""


def introduction(job_id: str, job: WireJob, show: Literal["size", "start", "all"]) -> JobStarted:
    """What the host is told of a job."""
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


class Notices:
    """Notices of one engine process.

    Args:
        send: takes them.
        show: how much of prompts and answers.
    """

    def __init__(
        self,
        send: Callable[[JobStarted | JobLeft], None] = lambda _: None,
        show: Literal["size", "start", "all"] = "size",
    ) -> None:
        self._send, self._show = send, show

    def started(self, running: "RunningJob") -> None:
        """The job runs here from now on."""
        if running.notice is not None:
            self._send(running.notice)

    def left(self, running: "RunningJob", how: str) -> None:
        """The job is here no more; `how` as in `JobLeft`."""
        text = self._reason(running.error) if running.error else ""
        if not text and how == "succeeded":
            answer = "".join(running.pieces) + running.tail if self._show != "size" else ""
            text = shown_answer(answer, len(running.token_ids), self._show)
        self._send(JobLeft(running.job_id, how, _cut(text)))

    def _reason(self, error: JobError) -> str:
        """Why a job failed; what a chat template says of its messages may quote them."""
        quotes = error.code == FailureCode.TEMPLATE and self._show != "all"
        return f"{error.code}: {error.message.partition(':')[0] if quotes else error.message}"


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
