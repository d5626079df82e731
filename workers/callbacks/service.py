"""The threads of `headrace callbacks`: for each queue a relay and its tasks, what is due, and upkeep."""

import random
import threading
import time
from collections.abc import Callable

import structlog
from celery import Celery

from ...schemas import keys
from ...schemas.errors import BadSetting, BrokerUnavailable
from ...schemas.keys import BatchKeys, Tag
from ...schemas.presence import note_presence
from ...schemas.redis.connection import broker_errors, connect
from ...schemas.scripts import run_many, upkeep
from ...telemetry.health import Report
from ...telemetry.seldom import Seldom
from ..celery_worker.revoke import Canceller
from ..ended_jobs import log_ended
from ..settings import CallbacksSettings
from .backlog import look
from .deliveries import Deliveries
from .metrics import CallbackMetrics
from .relay import Relay
from .webhooks.guard import ReceiverGuard
from .webhooks.sender import Sender

QUEUES_S = 2.0
"""How soon a newly served model is noticed, and the time between two rounds of upkeep."""

SILENT_S = 10.0
"""A round that takes longer than this is waiting for a Redis that doesn't answer."""

LATE_S = 60.0
"""A loop that waits for Redis makes a turn within this time, whether or not Redis answers."""

END_S = 10.0
"""Maximum duration of a stop; attempts in flight get five seconds of it."""

log = structlog.get_logger(__name__)


class Service:
    """Does everything that `headrace callbacks` does, except for being a Celery worker.

    Args:
        app: the Celery app whose tasks are completed.
        on_failure: called from any thread when one of them has ended with an unforeseen error.

    Raises:
        BadSetting: `webhook_allow` can't be used.
    """

    def __init__(
        self,
        settings: CallbacksSettings,
        app: Celery,
        metrics: CallbackMetrics,
        on_failure: Callable[[], None],
    ) -> None:
        self._settings, self._app, self._metrics = settings, app, metrics
        self._on_failure = on_failure
        self._redis = connect(settings.redis_url)
        self._queues: list[Tag] = []
        self._threads: list[threading.Thread] = []
        self._stopping = threading.Event()
        self._turned = time.monotonic()
        self._trouble = "it is starting"
        self._living: frozenset[str] = frozenset()
        self._canceller = Canceller(
            settings.redis_url,
            settings.namespace,
            settings.partitions,
            models=lambda: dict.fromkeys(tag.model for tag in self._queues),
        )
        try:
            guard = ReceiverGuard(allow_hosts=settings.webhook_allow)
        except ValueError as error:
            raise BadSetting(f"setting webhook_allow: {error}") from None
        self._deliveries = Deliveries(
            settings,
            metrics,
            queues=lambda: [*self._queues, BatchKeys(settings.namespace)],
            sender=lambda: Sender(
                guard,
                timeout_s=settings.webhook_timeout_s,
                max_connections=settings.webhook_concurrency,
            ),
        )

    def start(self) -> None:
        """Start the threads."""
        self._spawn("deliveries", lambda: self._deliveries.run(self._stopping))
        self._spawn("queues", self._watch)

    def stop(self) -> None:
        """Stop the threads, letting their work in flight finish if that is soon.

        A thread left waiting for Celery ends with the process, as if killed; its entry is taken up elsewhere.
        """
        self._stopping.set()
        self._deliveries.wake()
        give_up_at = time.monotonic() + END_S
        for thread in self._threads:  # the one that adds to them was started second, and is joined by then
            thread.join(max(0.0, give_up_at - time.monotonic()))
            if thread.is_alive():
                log.warning("thread_left", thread=thread.name, reason=f"not ended within {END_S:g} s")
        self._redis.close()

    def cancel(self, name: str) -> str:
        """Cancel a job, by its own id or its task's; `revoke` calls this."""
        return self._canceller.cancel(name)

    def live(self) -> Report:
        """Whether its threads and the loop that looks for queues are running."""
        ended = [thread.name for thread in self._threads if not thread.is_alive()]
        problems = [f"thread {name} has ended" for name in ended]
        if (silent_s := time.monotonic() - self._turned) > LATE_S:
            problems.append(f"its loop has made no progress for {silent_s:.0f} s")
        return Report(problems)

    def ready(self) -> Report:
        """Whether it can do its work: Redis answers and accepts its writes."""
        queues = [{"model": tag.model, "partition": tag.partition} for tag in self._queues]
        problems = [self._trouble] if self._trouble else []
        silent_s = time.monotonic() - self._turned
        if not problems and silent_s > SILENT_S:
            problems = [f"Redis has not answered for {silent_s:.0f} s"]
        return Report(problems, {"app": self._app.main, "queues": queues})

    def info(self) -> dict[str, int]:
        """What it is doing, as flat fields for `celery inspect stats`."""
        return {"queues": len(self._queues)}

    def _spawn(self, name: str, work: Callable[[], None]) -> None:
        def guarded() -> None:
            try:
                work()
            except Exception:
                log.exception("thread_failed", thread=name)
                self._on_failure()

        thread = threading.Thread(target=guarded, name=f"headrace-{name}", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _watch(self) -> None:
        """Find queues, give each a relay, and do their upkeep."""
        seldom = Seldom()
        while not self._stopping.is_set():
            try:
                self._turn()
            except BrokerUnavailable as error:
                self._trouble = str(error)
                if seldom.due(self._trouble):
                    log.warning("redis_awaited", reason=self._trouble)
            else:
                self._trouble = ""
                seldom.over()
            self._turned = time.monotonic()
            self._stopping.wait(QUEUES_S * random.uniform(0.8, 1.2))

    def _turn(self) -> None:
        """Do one round. A full Redis can't record this process's presence, but upkeep is still done."""
        refusal = None
        try:
            self._living = note_presence(self._redis, self._app.main or "", self._settings.namespace)
        except BrokerUnavailable as error:
            refusal = error
        self._notice_queues()
        self._keep_up()
        self._metrics.backlog(look(self._redis, self._queues))
        if refusal is not None:
            raise refusal

    def _notice_queues(self) -> None:
        namespace = self._settings.namespace
        with broker_errors():
            models: list[bytes] = self._redis.hkeys(keys.models(namespace))  # type: ignore[assignment]
        for model in sorted(models):
            for partition in range(self._settings.partitions):
                tag = Tag(model.decode(), partition, namespace)
                if tag not in self._queues:
                    relay = Relay(
                        self._redis,
                        tag,
                        self._app,
                        self._settings,
                        self._metrics,
                        self._stopping,
                        on_delivery=self._deliveries.wake,
                        living=lambda: self._living,
                    )
                    self._spawn(f"relay-{tag.model}-{partition}", relay.run)
                    self._spawn(f"tasks-{tag.model}-{partition}", relay.tasks.run)
                    # A new list, since other threads read the old one.
                    self._queues = [*self._queues, tag]
                    log.info("queue_noticed", model=tag.model, partition=partition)

    def _keep_up(self) -> None:
        answers = run_many(self._redis, [upkeep(tag, self._settings.queue) for tag in self._queues])
        for tag, answer in zip(self._queues, answers, strict=True):
            if isinstance(answer, Exception):
                raise answer
            log_ended(answer.ended, model=tag.model)
            if any(answer.counts[:-1]):
                log.info("upkeep", **answer.counts._asdict())
