"""From the outbox of one queue to what follows: one thread a queue.

An entry is gone only when all that follows from it is done, or is kept elsewhere: a process killed in between
leaves it to the next one, which does it again. So everything here may happen twice and must then be the same:
a task is completed with the stored outcome, a delivery has the entry's id. Entries of one job are seen to in
order, because they are in one stream and one thread reads it; an entry that must wait (Celery's broker is
away) does not hold up the others.
"""

import json
import threading
import time
from collections.abc import Callable
from typing import Any

import structlog
from celery import Celery
from redis import Redis
from redis.exceptions import ResponseError

from ...schemas.connection import broker_errors
from ...schemas.errors import BrokerUnavailable, InvalidJob
from ...schemas.events import Record
from ...schemas.job import Job, WebhookEvent
from ...schemas.keys import RELAY_GROUP, Tag
from ...schemas.scripts import accept_delivery, run
from .completion import NotCompleted, TaskMessage, complete, note_started
from .metrics import CallbackMetrics
from .payload import body
from .settings import CallbacksSettings

CONSUMER = "relay"
"""One for all processes: how long an entry was left alone says that its process is gone, not a name."""

_START = "0-0"
BATCH = 64
WAIT_S = 1.0
"""How long one read waits for entries; also how long a stop may take."""

log = structlog.get_logger(__name__)


class Relay:
    """Sees to the outbox of one queue.

    Args:
        app: has the generation task, and the broker and result backend of whoever waits for it.
        stopping: ends `run`.
        on_delivery: called when there is a webhook to send.
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
    ) -> None:
        self._redis, self._tag, self._app = redis, tag, app
        self._settings, self._metrics = settings, metrics
        self._stopping = stopping
        self._on_delivery = on_delivery
        self._abandoned_at, self._abandoned_from = 0.0, _START

    def run(self) -> None:
        """Relay until told to stop; a Redis that is away is waited for."""
        while not self._stopping.is_set():
            try:
                self._join()
                while not self._stopping.is_set():
                    self.turn()
            except BrokerUnavailable as error:
                log.warning("relay_waits", queue=self._tag.base, reason=str(error))
                self._stopping.wait(WAIT_S)

    def turn(self) -> None:
        """See to what there is, and wait a moment for more.

        Raises:
            BrokerUnavailable: Redis can't be reached or refuses.
        """
        with broker_errors():
            entries = self._abandoned() + self._new()
        for entry_id, fields in entries:
            try:
                self._see_to(entry_id.decode(), fields)
            except BrokerUnavailable:
                raise
            except Exception:  # whatever one job brings along, it is no reason to leave the others alone
                log.exception("outbox_entry_failed", entry=entry_id.decode(), queue=self._tag.base)
                self._metrics.relayed("waits")

    def _join(self) -> None:
        with broker_errors():
            try:
                self._redis.xgroup_create(self._tag.outbox, RELAY_GROUP, "0", mkstream=True)
            except ResponseError as error:
                if "BUSYGROUP" not in str(error):
                    raise

    def _new(self) -> list[Any]:
        streams: dict[Any, Any] = {self._tag.outbox: ">"}
        found: Any = self._redis.xreadgroup(
            RELAY_GROUP, CONSUMER, streams, count=BATCH, block=round(WAIT_S * 1000)
        )
        return [entry for _, entries in found or () for entry in entries]

    def _abandoned(self) -> list[Any]:
        """Entries that somebody, perhaps this process, took up and did not end in time."""
        now = time.monotonic()
        if now < self._abandoned_at:
            return []
        idle_ms = round(self._settings.relay_s * 1000)
        following, entries, *_ = self._redis.xautoclaim(
            self._tag.outbox, RELAY_GROUP, CONSUMER, idle_ms, self._abandoned_from, count=BATCH
        )
        self._abandoned_from = following.decode()
        if self._abandoned_from == _START:  # all were looked at
            self._abandoned_at = now + self._settings.relay_s / 4
        return [(entry_id, fields) for entry_id, fields in entries if fields]

    def _see_to(self, entry_id: str, fields: dict[bytes, bytes]) -> None:
        """All that follows from one entry; one that can't be done now stays, and is tried again later."""
        try:
            job_id, event = fields[b"job"].decode(), WebhookEvent(fields[b"event"].decode())
            with broker_errors():
                known: dict[Any, Any] = self._redis.hgetall(self._tag.job(job_id))
            record = Record(job_id, {name.decode(): value.decode() for name, value in known.items()})
            job, at_ms = Job.from_wire(record.fields["spec"]), int(fields[b"at_ms"])
        except (KeyError, ValueError) as error:
            log.error("outbox_entry_dropped", entry=entry_id, queue=self._tag.base, reason=repr(error))
            self._metrics.relayed("dropped")
            self._acknowledge(entry_id)
            return
        try:
            if job.celery is not None:
                self._follow_task(event, record)
        except InvalidJob as error:
            log.error("task_dropped", job=job_id, reason=str(error))
            self._metrics.relayed("dropped")
        except NotCompleted as error:
            log.warning("task_waits", job=job_id, reason=str(error), again_in_s=self._settings.relay_s)
            self._metrics.relayed("waits")
            return
        if job.webhook is None or event not in job.webhook.events:
            self._acknowledge(entry_id)
        else:
            self._deliver(entry_id, event, at_ms, job, record)
        self._metrics.relayed("done")

    def _follow_task(self, event: WebhookEvent, record: Record) -> None:
        message = TaskMessage.of(json.loads(record.fields["spec"]))
        if event is WebhookEvent.STARTED:
            note_started(self._app, message, record.fields.get("worker", ""))
        elif record.state.terminal:  # else it was queued again, and this is not its end
            complete(self._app, message, record)

    def _deliver(self, entry_id: str, event: WebhookEvent, at_ms: int, job: Job, record: Record) -> None:
        assert job.webhook is not None
        secret = job.webhook.secret
        run(
            self._redis,
            accept_delivery(
                self._tag,
                entry_id,
                job_id=record.job_id,
                event=event.value,
                tenant=job.tenant,
                url=job.webhook.url,
                body=body(event, at_ms, job, record),
                secret=secret.get_secret_value() if secret else "",
                retention_s=self._settings.webhook_retention_s,
            ),
        )
        self._on_delivery()

    def _acknowledge(self, entry_id: str) -> None:
        with broker_errors():
            pipe = self._redis.pipeline(transaction=True)
            pipe.xack(self._tag.outbox, RELAY_GROUP, entry_id)
            pipe.xdel(self._tag.outbox, entry_id)
            pipe.execute()
