"""Completing Celery tasks: what happens in Celery when a generation job starts and ends.

The job's record holds the message that Celery would have sent. When the job has ended, the task is traced
with the outcome in place of its work, so that Celery itself stores the result and continues with callbacks,
chains and chords.

If a process is killed meanwhile, the job's outbox entry remains, so all this may happen again. Celery first
sends what follows, then stores the result, then counts the part of a chord. Once the result is stored,
nothing is sent again. What was sent just before is sent again under the same id, and a generation with the
same id is the same job. A chord counts each part once, and while one process has claimed the sending of its
body, all others wait.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
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
from ...schemas.events import JobState
from ...schemas.record import Record
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
    """The task could not be completed now, because Celery's broker or result backend refused: try again."""


@contextmanager
def _celery_errors(message: "TaskMessage") -> Iterator[None]:
    """Turn anything that a broker, a backend or a serializer raises into `NotCompleted`."""
    try:
        yield
    except NotCompleted:
        raise
    except Exception as error:
        raise NotCompleted(f"task {message.task_id}: {error!r}") from error


class _Ending(TraceInfo):  # type: ignore[misc]
    """Let only the job's own end fail the task; Celery would also fail it for an unreachable broker."""

    __slots__ = ()

    def handle_error_state(self, task: Any, req: Any, eager: bool = False, call_errbacks: bool = True) -> Any:
        if not isinstance(self.retval, _ENDINGS):
            raise Reject(self.retval)
        return super().handle_error_state(task, req, eager, call_errbacks)


def note_started(app: Celery, message: TaskMessage, worker: str) -> None:
    """Store `STARTED`, or the task would look pending and be revoked as such.

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
    """Let Celery do everything that follows the job's end; if that can never be done, fail the task.

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
    # Without followers nothing is sent to the broker, so it need not be there.
    if any(message.request.get(name) for name in FOLLOWERS):
        _reach_broker(app)
    if record.state is JobState.CANCELLED:
        app.backend.mark_as_revoked(
            message.task_id,
            _why_cancelled(record),
            request=Context(message.request),
            store_result=not message.ignore_result,
        )
        return
    # Errbacks are sent below, each on its own: Celery would stop at the first that can't be.
    request = {**message.request, OUTCOME: lambda: _believed(message, record), "errbacks": None}
    request["chain"] = list(message.request.get("chain") or ())  # Celery removes the next step from it
    if _is_stored(app, message, record):
        # The part of a chord is still counted: Celery does that last, and counts each part once.
        request |= {"callbacks": None, "chain": None}
    trace = build_tracer(NAME, app.tasks[NAME], app=app, Info=_Ending)
    traced = trace(message.task_id, (), message.request["kwargs"], request)
    if traced.info is None:
        return
    # Not the end of the job but a refusal by the broker or the backend on the way.
    if not isinstance(traced.info.retval, _ENDINGS):
        raise traced.info.retval
    _call_errbacks(app, message, traced.info.retval)


def _why_cancelled(record: Record) -> str:
    with suppress(ValueError):  # the record was damaged
        if record.error is not None:
            return record.error.message
    return "revoked"


def is_final(error: BaseException | None) -> bool:
    """Whether a refusal would be repeated; unforeseen errors may pass."""
    if isinstance(error, HeadraceError):
        return not isinstance(error, BrokerUnavailable | QueueFull | RateLimited)
    return isinstance(error, _FINAL)


def _fail(app: Celery, message: TaskMessage, error: Exception) -> None:
    """Fail a task whose job has ended but whose followers can't be sent, and its followers with it."""
    app.backend.mark_as_failure(
        message.task_id,
        error,
        request=Context(message.request),
        store_result=not message.ignore_result,
        call_errbacks=False,
    )
    _call_errbacks(app, message, error)


def _call_errbacks(app: Celery, message: TaskMessage, error: Exception) -> None:
    """Send each on its own, so that one that can never be sent doesn't keep the others from it."""
    for errback in message.request.get("errbacks") or ():
        request = Context({**message.request, "errbacks": [errback]})
        try:
            app.backend._call_task_errbacks(request, error, None)
        except Exception as refused:
            if not is_final(refused):
                raise
            log.error("errback_refused", task=message.task_id, reason=_told(refused))


def _told(error: BaseException | None) -> str:
    """An error for the log, without the text of errors that aren't headrace's, which may contain anything."""
    return str(error) if isinstance(error, HeadraceError) else type(error).__name__


def _reach_broker(app: Celery) -> None:
    """Check that the broker can be reached; Celery would wait for long, then fail a chord's body."""
    with app.producer_or_acquire() as producer:
        producer.connection.ensure_connection(max_retries=1, interval_start=0, interval_step=0)


def _is_stored(app: Celery, message: TaskMessage, record: Record) -> bool:
    """Whether the task already has the job's result, so that everything that follows has been sent."""
    if message.ignore_result or isinstance(app.backend, DisabledBackend):
        return False
    known = app.backend.get_task_meta(message.task_id)
    return bool(known["status"] == states.SUCCESS and known["result"].get("job_id") == record.job_id)


def _parts(message: TaskMessage) -> Iterator[tuple[str, str]]:
    """Chord and id of the parts that this end may complete: the task and, if it fails, its followers."""
    if message.request.get("chord") is not None:
        yield message.request["group"], message.task_id
    for later in message.request.get("chain") or ():
        if later["options"].get("chord") is not None:
            yield later["options"]["group_id"], later["options"]["task_id"]


def _await_claim(app: Celery, message: TaskMessage) -> None:
    """Leave a chord alone while a process has claimed the sending of its body.

    If that process was killed, the claim expires. Its part is then counted again and sends the body; counted
    earlier, it would be told that there is nothing left to do.
    """
    for group, _ in _parts(message):
        # As celery.backends.redis keeps a chord: .s is its size, .c says who sends its body, or that it is
        # done.
        keys = [app.backend.get_key_for_group(group, part) for part in (".c", ".s")]
        claim, size = app.backend.client.mget(keys)
        if size is not None and claim not in (None, b"done", "done"):
            raise NotCompleted(f"task {message.task_id}: the body of its chord {group} is being sent")


def _forget_failure(app: Celery, message: TaskMessage) -> None:
    """Let the followers fail again: if they have failed already, Celery skips their part of a chord."""
    for _, task_id in _parts(message):
        if task_id != message.task_id and app.backend.get_state(task_id) in states.PROPAGATE_STATES:
            app.backend.forget(task_id)


def _believed(message: TaskMessage, record: Record) -> dict[str, Any]:
    """The outcome; a success counts as a failure if its followers can't be trusted."""
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
    except (KeyError, ValueError) as error:  # damaged from outside; those who wait must still hear of an end
        log.error("result_unreadable", job=record.job_id, reason=type(error).__name__)
        reason = f"its stored result can't be read ({type(error).__name__})"
        raise JobFailed(record.job_id, "unknown", reason) from None
