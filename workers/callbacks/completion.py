"""Completing Celery tasks: what happens in Celery when a generation job starts and ends.

The job's record has the message that Celery would have sent. When the job has ended, the task is traced with
the outcome in the place of its work, so that Celery itself stores the result and goes on with callbacks,
chains and chords.

A process killed at it leaves the job's outbox entry, so it may happen again. Celery sends what follows first,
then stores the result, then counts the part of a chord. So once the result is there nothing is sent again;
what was sent just before is, with the same id, and a generation of the same id is the same job. A chord
counts each part once, and while somebody has claimed the sending of its body everybody else waits.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import structlog
from celery import Celery, states
from celery.app.task import Context
from celery.app.trace import TraceInfo, build_tracer
from celery.backends.base import DisabledBackend
from celery.backends.redis import RedisBackend
from celery.exceptions import ImproperlyConfigured, InvalidTaskError, NotRegistered, QueueNotFound, Reject
from kombu.exceptions import SerializationError, SerializerNotInstalled

from ...schemas.errors import (
    BrokerUnavailable,
    HeadraceError,
    JobExpired,
    JobFailed,
    QueueFull,
    RateLimited,
)
from ...schemas.events import JobState, Record
from .message import FOLLOWERS, NAME, TaskMessage

OUTCOME = "headrace_outcome"

_ENDINGS = (JobFailed, JobExpired)
_FINAL = (
    *(TypeError, ValueError, RecursionError, NotImplementedError),  # arguments that do not fit
    *(SerializationError, SerializerNotInstalled),
    *(ImproperlyConfigured, InvalidTaskError, NotRegistered, QueueNotFound),
)

log = structlog.get_logger(__name__)


class NotCompleted(Exception):
    """The task could not be completed now: Celery's broker or result backend refused. Try again."""


@contextmanager
def _celery_errors(message: "TaskMessage") -> Iterator[None]:
    """Whatever a broker, a backend or a serializer raises leaves the task to be completed later."""
    try:
        yield
    except NotCompleted:
        raise
    except Exception as error:
        raise NotCompleted(f"task {message.task_id}: {error!r}") from error


class _Ending(TraceInfo):  # type: ignore[misc]
    """Only the job's own end makes the task fail; Celery would take a broker that is away for one too."""

    __slots__ = ()

    def handle_error_state(self, task: Any, req: Any, eager: bool = False, call_errbacks: bool = True) -> Any:
        if not isinstance(self.retval, _ENDINGS):
            raise Reject(self.retval)
        return super().handle_error_state(task, req, eager, call_errbacks)


def note_started(app: Celery, message: TaskMessage, worker: str) -> None:
    """Store `STARTED`: a task that nobody runs would be taken for pending, and revoked as such.

    Raises:
        NotCompleted: Celery's result backend refused.
    """
    with _celery_errors(message):
        if message.ignore_result or isinstance(app.backend, DisabledBackend):
            return
        if app.backend.get_state(message.task_id) in states.READY_STATES:
            return
        try:
            app.backend.store_result(
                message.task_id, {"hostname": worker}, states.STARTED, request=Context(message.request)
            )
        except Exception as error:
            if not is_final(error):
                raise
            log.error("start_not_noted", task=message.task_id, reason=_told(error))


def complete(app: Celery, message: TaskMessage, record: Record) -> None:
    """Let Celery do all that follows from the job's end; if that can't ever be, the task has failed.

    Raises:
        NotCompleted: Celery's broker or result backend refused, or a queue is full.
    """
    with _celery_errors(message):
        try:
            _complete(app, message, record)
        except Exception as error:
            reason = error.reason if isinstance(error, Reject) else error
            if not is_final(reason):
                raise
            log.error("task_refused", job=record.job_id, task=message.task_id, reason=_told(reason))
            _fail(app, message, reason)


def _complete(app: Celery, message: TaskMessage, record: Record) -> None:
    if isinstance(app.backend, RedisBackend):
        _await_claim(app, message)
        _forget_failure(app, message)
    if any(message.request.get(name) for name in FOLLOWERS):
        _reach_broker(app)
    if record.state is JobState.CANCELLED:
        app.backend.mark_as_revoked(
            message.task_id,
            "revoked",
            request=Context(message.request),
            store_result=not message.ignore_result,
        )
        return
    request = {**message.request, OUTCOME: lambda: _believed(message, record), "errbacks": None}
    request["chain"] = list(message.request.get("chain") or ())  # Celery takes the next step off it
    if _is_stored(app, message, record):
        request |= {"callbacks": None, "chain": None}
    trace = build_tracer(NAME, app.tasks[NAME], app=app, Info=_Ending)
    traced = trace(message.task_id, (), message.request["kwargs"], request)
    if traced.info is None:
        return
    if not isinstance(traced.info.retval, _ENDINGS):
        raise traced.info.retval
    _call_errbacks(app, message, traced.info.retval)


def is_final(error: BaseException | None) -> bool:
    """Whether what was refused would be refused again; what nobody foresaw may pass."""
    if isinstance(error, HeadraceError):
        return not isinstance(error, BrokerUnavailable | QueueFull | RateLimited)
    return isinstance(error, _FINAL)


def _fail(app: Celery, message: TaskMessage, error: Exception) -> None:
    """End a task whose job has ended, but from which something can't follow; with it what was to follow."""
    app.backend.mark_as_failure(
        message.task_id,
        error,
        request=Context(message.request),
        store_result=not message.ignore_result,
        call_errbacks=False,
    )
    _call_errbacks(app, message, error)


def _call_errbacks(app: Celery, message: TaskMessage, error: Exception) -> None:
    """Each on its own: one that can't be sent ever is no reason to leave out the others."""
    for errback in message.request.get("errbacks") or ():
        request = Context({**message.request, "errbacks": [errback]})
        try:
            app.backend._call_task_errbacks(request, error, None)
        except Exception as refused:
            if not is_final(refused):
                raise
            log.error("errback_refused", task=message.task_id, reason=_told(refused))


def _told(error: BaseException | None) -> str:
    """An error in a log: of those that are not headrace's own, the text may have anything in it."""
    return str(error) if isinstance(error, HeadraceError) else type(error).__name__


def _reach_broker(app: Celery) -> None:
    """See that there is a broker to send to: Celery would wait for long, and then fail a chord's body."""
    with app.producer_or_acquire() as producer:
        producer.connection.ensure_connection(max_retries=1, interval_start=0, interval_step=0)


def _is_stored(app: Celery, message: TaskMessage, record: Record) -> bool:
    """Whether the job's result is the task's already: all that follows it was sent before."""
    if message.ignore_result or isinstance(app.backend, DisabledBackend):
        return False
    known = app.backend.get_task_meta(message.task_id)
    return bool(known["status"] == states.SUCCESS and known["result"].get("job_id") == record.job_id)


def _parts(message: TaskMessage) -> Iterator[tuple[str, str]]:
    """Chord and id of what this end may complete: itself, and if it fails, what it was to be followed by."""
    if message.request.get("chord") is not None:
        yield message.request["group"], message.task_id
    for later in message.request.get("chain") or ():
        if later["options"].get("chord") is not None:
            yield later["options"]["group_id"], later["options"]["task_id"]


def _await_claim(app: Celery, message: TaskMessage) -> None:
    """Leave a chord alone while somebody has claimed the sending of its body.

    When its owner was killed, the claim ends by itself. The owner's part is then counted again, and sends the
    body; counted before, it would be told that there is nothing left to do.
    """
    for group, _ in _parts(message):
        keys = [app.backend.get_key_for_group(group, part) for part in (".c", ".s")]
        claim, size = app.backend.client.mget(keys)
        if size is not None and claim not in (None, b"done", "done"):
            raise NotCompleted(f"task {message.task_id}: the body of its chord {group} is being sent")


def _forget_failure(app: Celery, message: TaskMessage) -> None:
    """Let what was to follow fail anew: where it has failed, Celery passes over its part of a chord."""
    for _, task_id in _parts(message):
        if task_id != message.task_id and app.backend.get_state(task_id) in states.PROPAGATE_STATES:
            app.backend.forget(task_id)


def _believed(message: TaskMessage, record: Record) -> dict[str, Any]:
    """The outcome; a success is none where what was to follow from it can't be believed."""
    outcome = _outcome(record)
    if message.cut:
        reason = "what should follow is not sent: the task's message is not as generate() signed it"
        raise JobFailed(record.job_id, "unsigned", reason)
    return outcome


def _outcome(record: Record) -> dict[str, Any]:
    if record.state is JobState.FAILED:
        error = record.error
        raise JobFailed(record.job_id, error.code if error else "unknown", error.message if error else "")
    if record.state is JobState.EXPIRED:
        raise JobExpired(record.job_id)
    try:
        return record.result().model_dump(mode="json", exclude_none=True)
    except (KeyError, ValueError) as error:  # damaged from outside; whoever waits is to hear of an end
        log.error("result_unreadable", job=record.job_id, reason=type(error).__name__)
        reason = f"its stored result can't be read ({type(error).__name__})"
        raise JobFailed(record.job_id, "unknown", reason) from None
