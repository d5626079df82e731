"""The Celery tasks of one queue whose jobs have started or ended, completed one after the other in a thread.

It is a thread of its own because Celery's broker or result backend may be slow, or not answer: nothing else
waits for them. What it has not come to stays in the outbox, so what it keeps is a list of ids. When its turn
comes an entry is taken up anew, unless another process took it in the meantime: a long list is no reason that
anything is done twice.
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
"""Entries on the list; more wait in the outbox until somebody comes by for them."""

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Turn:
    """What is to be done for one entry.

    Attributes:
        since: the monotonic time when the entry was had for certain.
    """

    job_id: str
    event: WebhookEvent
    since: float


class Tasks:
    """Completes tasks. `add` may be called from any thread.

    Args:
        messages: reads what is to be completed.
        app: has the generation task, and the broker and result backend of whoever waits for it.
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
        """Put an entry on the list; one that is there keeps its place."""
        with self._changed:
            if entry_id in self._turns:
                self._turns[entry_id].since = since
            elif len(self._turns) < MOST:
                self._turns[entry_id] = Turn(job_id, event, since)
                self._changed.notify()

    def run(self) -> None:
        """Complete tasks until told to stop; whatever is in the way leaves a task to be completed later."""
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
            except Exception:  # as where entries are read: one job is no reason to leave the others alone
                log.exception("outbox_entry_failed", entry=entry_id, job=turn.job_id)
                self._metrics.relayed("waits")

    def _take(self, entry_id: str, turn: Turn) -> None:
        if not self._outbox.keep(entry_id, turn.since):
            return
        record = self._outbox.record(turn.job_id)
        message = self._messages.of(record, WireJob.from_wire(record.fields["spec"]))
        if turn.event is WebhookEvent.STARTED:
            note_started(self._app, message, record.fields.get("worker", ""))
        elif record.state.terminal:  # else it was queued again, and this is not its end
            complete(self._app, message, record)
        self._outbox.remove(entry_id)
        self._metrics.relayed("done")
