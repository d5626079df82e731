"""Handles the outbox of one queue: one thread for webhooks, and beside it one for Celery tasks.

An entry is removed only when everything that follows is done or stored elsewhere; a process killed in between
leaves it to the next one, which does it again. So everything here may happen twice and must then have the
same effect: a task is completed with the stored outcome, a delivery has the entry's id. A webhook is accepted
at once, while a task waits for the tasks before it (`tasks`), so that a Celery that doesn't answer delays
only tasks. Entries are taken up in order, but one that can't be finished now is taken up again later, so an
end may be reported before the start. An entry for another process is left for it: a job of a newer version,
or a task of another Celery app, whose results are kept elsewhere.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable

import structlog
from celery import Celery
from redis import Redis

from ...schemas.errors import BrokerUnavailable, InvalidJob
from ...schemas.job import SCHEMA_VERSION, WebhookEvent
from ...schemas.keys import Tag
from ...schemas.presence import has_name
from ...schemas.record import Record
from ...schemas.redaction import shown_name
from ...schemas.scripts import accept_delivery, run
from ...schemas.webhooks.delivery import delivery_id
from ...schemas.wire import WireJob
from ...telemetry.seldom import Seldom
from ..settings import CallbacksSettings
from .message import Messages, TaskMessage
from .metrics import CallbackMetrics
from .outbox import WAIT_S, Entry, Outbox
from .payload import body, openai_event
from .tasks import Tasks

log = structlog.get_logger(__name__)


class Relay:
    """Handles the outbox of one queue.

    Args:
        app: the Celery app with the generation task, its broker and its result backend.
        stopping: ends `run` and `tasks.run`.
        on_delivery: called when there is a webhook to send.
        living: the Celery apps that have callbacks alive.

    Attributes:
        tasks: the Celery tasks to complete, for a thread of their own.
    """

    def __init__(
        self,
        redis: Redis,
        tag: Tag,
        app: Celery,
        settings: CallbacksSettings,
        metrics: CallbackMetrics,
        stopping: threading.Event,
        on_delivery: Callable[[], None] = lambda: None,
        living: Callable[[], frozenset[str]] = frozenset,
    ) -> None:
        self._redis, self._tag, self._app = redis, tag, app
        self._settings, self._metrics = settings, metrics
        self._stopping = stopping
        self._on_delivery = on_delivery
        self._outbox = Outbox(redis, tag, settings.relay_s, app.main if has_name(app.main) else "")
        self._living = living
        self._left: Counter[str] = Counter()
        self._said = Seldom()
        self._messages = Messages(
            redis, settings.namespace, settings.partitions, unsigned=settings.celery_unsigned
        )
        self.tasks = Tasks(self._outbox, self._messages, app, metrics, stopping)

    def run(self) -> None:
        """Relay until told to stop, waiting for Redis if it is unreachable."""
        seldom = Seldom()
        while not self._stopping.is_set():
            try:
                self._outbox.join()
                while not self._stopping.is_set():
                    self.turn()
                    seldom.over()
            except BrokerUnavailable as error:
                if seldom.due(str(error)):
                    log.warning("relay_waits", queue=self._tag.base, reason=str(error))
                self._stopping.wait(WAIT_S)

    def turn(self) -> None:
        """Handle the waiting entries, and wait a moment for more.

        Raises:
            BrokerUnavailable: Redis can't be reached or refuses.
        """
        # First what another process has left lying: it is the oldest.
        self._see_to_all(self._outbox.abandoned())
        self._see_to_all(self._outbox.fresh())

    def _see_to_all(self, entries: Iterable[Entry]) -> None:
        since = time.monotonic()
        for entry_id, fields in entries:
            try:
                self._see_to(entry_id, fields, since)
            except BrokerUnavailable:
                raise
            except Exception:  # no error over one job must keep the others from being handled
                log.exception("outbox_entry_failed", entry=entry_id, queue=self._tag.base)
                self._metrics.relayed("waits")
        if self._left and self._said.due(" ".join(sorted(self._left))):
            for reason, count in self._left.items():
                log.warning("outbox_entries_left", queue=self._tag.base, count=count, reason=reason)
        self._left.clear()

    def _see_to(self, entry_id: str, fields: dict[bytes, bytes], since: float) -> None:
        """Do everything that follows from one entry; if that can't be done now, it stays and is retried."""
        try:
            record = self._outbox.record(fields[b"job"].decode())
            # Before the spec is parsed, which such a version may have changed.
            if int(record.fields["v"]) > SCHEMA_VERSION:
                self._leave(entry_id, "their jobs are of a newer version than this process")
                return
            event, at_ms = WebhookEvent(fields[b"event"].decode()), int(fields[b"at_ms"])
            job = WireJob.from_wire(record.fields["spec"])
        except (KeyError, ValueError) as error:
            log.error("outbox_entry_dropped", entry=entry_id, queue=self._tag.base, reason=_told(error))
            self._metrics.relayed("dropped")
            self._outbox.remove(entry_id)
            return
        message = self._task_of(job, record)
        if job.webhook is not None and event in job.webhook.events:
            self._deliver(entry_id, event, at_ms, job, record, keep_entry=message is not None)
        # Nothing follows from it: no webhook for this event, and no task, or none that can be read.
        elif message is None:
            self._outbox.remove(entry_id)
        if job.celery is None:
            self._metrics.relayed("done")
        elif message is not None and not message.is_for(self._app):
            self._leave_to(entry_id, message.app or "")
        elif message is not None:
            self.tasks.add(entry_id, record.job_id, event, since)

    def _leave(self, entry_id: str, reason: str) -> None:
        self._outbox.leave(entry_id)
        self._left[reason] += 1
        self._metrics.relayed("left")

    def _leave_to(self, entry_id: str, app: str) -> None:
        if app in self._living():
            self._outbox.leave(entry_id, app)
            self._metrics.relayed("left")
            return
        theirs, ours = shown_name(app), self._app.main
        missing = (
            f"and no callbacks of {theirs!r} are alive: start headrace callbacks --app module:app for it"
        )
        self._leave(
            entry_id,
            f"their tasks belong to the Celery app {theirs!r}, these callbacks to {ours!r}, {missing}",
        )

    def _task_of(self, job: WireJob, record: Record) -> TaskMessage | None:
        """The job's Celery task; None if it has none, or an unreadable one."""
        if job.celery is None:
            return None
        try:
            return self._messages.of(record, job)
        except InvalidJob as error:
            log.error("task_dropped", job=record.job_id, reason=str(error))
            self._metrics.relayed("dropped")
            return None

    def _deliver(
        self,
        entry_id: str,
        event: WebhookEvent,
        at_ms: int,
        job: WireJob,
        record: Record,
        *,
        keep_entry: bool,
    ) -> None:
        assert job.webhook is not None
        secret = job.webhook.secret
        if job.webhook.payload == "openai":
            name, text = openai_event(event, at_ms, record, delivery_id(record.job_id, entry_id))
        else:
            name, text = event.value, body(event, at_ms, job, record)
        call = accept_delivery(
            self._tag,
            entry_id,
            job_id=record.job_id,
            event=name,
            tenant=job.tenant,
            url=job.webhook.url,
            body=text,
            secret=secret.get_secret_value() if secret else "",
            retention_s=self._settings.webhook_retention_s,
            keep_entry=keep_entry,
        )
        if run(self._redis, call):
            self._on_delivery()


def _told(error: Exception) -> str:
    """What is wrong with a record, without quoting it, since it may contain secrets."""
    return str(error) if isinstance(error, InvalidJob) else type(error).__name__
