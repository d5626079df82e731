"""Completes the Celery tasks of one queue whose jobs have started or ended, one after the other, in a thread.

The thread is its own because Celery's broker or result backend may be slow or not answer, and nothing else
should wait for them. Pending entries stay in the outbox, so it only keeps a list of ids. When its turn comes,
an entry is taken up again, unless another process took it meanwhile, so a long list doesn't lead to work
being done twice.
"""

import threading
from dataclasses import dataclass

import structlog
from celery import Celery

from ...schemas.errors import BrokerUnavailable
from ...schemas.job import WebhookEvent
from ...schemas.wire import WireJob
from .completion import NotCompleted, complete, note_started
from .message import Messages
from .metrics import CallbackMetrics
from .outbox import WAIT_S, Outbox

MOST = 10_000
"""Maximum number of entries on the list; others wait in the outbox until they are read again."""

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Turn:
    """What to do for one entry.

    Attributes:
        since: the monotonic time at which the entry was certainly ours.
    """

    job_id: str
    event: WebhookEvent
    since: float


class Tasks:
    """Completes tasks. `add` may be called from any thread.

    Args:
        messages: reads the messages of the tasks.
        app: the Celery app with the generation task, its broker and its result backend.
        stopping: ends `run`.
    """

    def __init__(
        self,
        outbox: Outbox,
        messages: Messages,
        app: Celery,
        metrics: CallbackMetrics,
        stopping: threading.Event,
    ) -> None:
        self._outbox, self._messages = outbox, messages
        self._app, self._metrics = app, metrics
        self._stopping = stopping
        self._turns: dict[str, Turn] = {}
        self._changed = threading.Condition()

    def add(self, entry_id: str, job_id: str, event: WebhookEvent, since: float) -> None:
        """Add an entry to the list; one that is already there keeps its place."""
        with self._changed:
            if entry_id in self._turns:
                self._turns[entry_id].since = since
            elif len(self._turns) < MOST:
                self._turns[entry_id] = Turn(job_id, event, since)
                self._changed.notify()

    def run(self) -> None:
        """Complete tasks until told to stop; any obstacle leaves a task to be completed later."""
        while not self._stopping.is_set():
            with self._changed:
                if not self._changed.wait_for(lambda: self._turns, WAIT_S):
                    continue
                entry_id = next(iter(self._turns))
                turn = self._turns.pop(entry_id)
            try:
                self._take(entry_id, turn)
            except NotCompleted as error:
                log.warning("task_waits", job=turn.job_id, reason=str(error))
                self._metrics.relayed("waits")
            except BrokerUnavailable as error:
                log.warning("tasks_wait", job=turn.job_id, reason=str(error))
                self._stopping.wait(WAIT_S)
            except Exception:  # as in the relay, one job's error must not keep the others from being handled
                log.exception("outbox_entry_failed", entry=entry_id, job=turn.job_id)
                self._metrics.relayed("waits")

    def _take(self, entry_id: str, turn: Turn) -> None:
        # Another process has taken it up meanwhile, and does all this.
        if not self._outbox.keep(entry_id, turn.since):
            return
        record = self._outbox.record(turn.job_id)
        message = self._messages.of(record, WireJob.from_wire(record.fields["spec"]))
        if turn.event is WebhookEvent.STARTED:
            note_started(self._app, message, record.fields.get("worker", ""))
        elif record.state.terminal:  # otherwise it was queued again, and this isn't its end
            complete(self._app, message, record)
        self._outbox.remove(entry_id)
        self._metrics.relayed("done")
