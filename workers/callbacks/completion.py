"""Completing Celery tasks: what happens in Celery when a generation job starts and ends.

The job's record has the message that Celery would have sent. When the job has ended, the task is traced with
the outcome in the place of its work, so that Celery itself stores the result and goes on with callbacks,
chains and chords. It may happen again after a crash, and then with the very same outcome: a chord counts its
parts by their bytes, and a generation that follows in a chain has the same job id.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from celery import Celery, states
from celery.app.task import Context
from celery.app.trace import trace_task
from kombu.utils.json import loads as from_json

from ...schemas.errors import JobExpired, JobFailed
from ...schemas.events import JobState, Record

NAME = "headrace.generate"
OUTCOME = "headrace_outcome"


_ENDINGS = (JobFailed, JobExpired)
_OWN = {"celery", "webhook", "v"}


class NotCompleted(Exception):
    """The task could not be completed now: Celery's broker or result backend refused. Try again."""


@contextmanager
def _celery_errors(message: "TaskMessage") -> Iterator[None]:
    """Whatever a broker, a backend or a serializer raises leaves the task to be completed later."""
    try:
        yield
    except Exception as error:
        raise NotCompleted(f"task {message.task_id}: {error!r}") from error


@dataclass(slots=True, frozen=True)
class TaskMessage:
    """The message of a generation task, as its producer kept it in the job.

    Attributes:
        task_id: the task's id.
        request: what Celery's trace wants to know of the message.
        ignore_result: nobody wants the result stored.
    """

    task_id: str
    request: dict[str, Any]
    ignore_result: bool

    @classmethod
    def of(cls, spec: Mapping[str, Any]) -> "TaskMessage":
        """The message in a job's spec; the webhook, which may have a secret, is not told to Celery."""
        part = from_json(spec["celery"])
        headers, embed, properties = part["headers"], part["embed"], part["properties"]
        request = {
            **headers,
            **embed,
            "args": (),
            "kwargs": {name: value for name, value in spec.items() if name not in _OWN},
            "reply_to": properties.get("reply_to"),
            "correlation_id": properties.get("correlation_id", headers["id"]),
            "delivery_info": {"priority": properties.get("priority"), "redelivered": False},
            "is_eager": False,
        }
        return cls(headers["id"], request, bool(headers.get("ignore_result")))


def note_started(app: Celery, message: TaskMessage, worker: str) -> None:
    """Store `STARTED`: a task that nobody runs would be taken for pending, and revoked as such.

    Raises:
        NotCompleted: Celery's result backend refused.
    """
    with _celery_errors(message):
        if message.ignore_result or app.backend.get_state(message.task_id) in states.READY_STATES:
            return
        app.backend.store_result(
            message.task_id, {"hostname": worker}, states.STARTED, request=Context(message.request)
        )


def complete(app: Celery, message: TaskMessage, record: Record) -> None:
    """Let Celery do all that follows from the job's end.

    Raises:
        NotCompleted: Celery's broker or result backend refused.
    """
    with _celery_errors(message):
        if record.state is JobState.CANCELLED:
            app.backend.mark_as_revoked(
                message.task_id,
                "revoked",
                request=Context(message.request),
                store_result=not message.ignore_result,
            )
            return
        request = {**message.request, OUTCOME: lambda: _outcome(record)}
        traced = trace_task(app.tasks[NAME], message.task_id, (), message.request["kwargs"], request, app=app)
        info = traced.info
        if info is not None and info.state != states.RETRY and not isinstance(info.retval, _ENDINGS):
            raise info.retval


def _outcome(record: Record) -> dict[str, Any]:
    if record.state is JobState.FAILED:
        error = record.error
        raise JobFailed(record.job_id, error.code if error else "unknown", error.message if error else "")
    if record.state is JobState.EXPIRED:
        raise JobExpired(record.job_id)
    return record.result().model_dump(mode="json", exclude_none=True)
