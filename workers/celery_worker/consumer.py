"""A Celery consumer that never gives up, for processes that have more important work than being one.

Celery ends a worker whose broker refuses in a way that doesn't look like a lost connection: a full Redis, a
read-only replica, missing rights, a Cluster node. But what people see in Flower is no reason to stop serving.
So here every exception, at startup, in an event, a heartbeat or a reply, only leads to another connection,
after a growing pause. Only an order to stop ends the consumer.
"""

import logging
import time
from collections.abc import Sequence
from errno import EMFILE
from typing import Any

import structlog
from celery.worker import loops, state
from celery.worker.consumer import consumer
from kombu.exceptions import KombuError
from redis.exceptions import RedisError

FIRST_PAUSE_S = 1.0
MOST_PAUSE_S = 30.0

STABLE_S = 10.0
"""A connection that lasted this long was fine: its loss counts as the first, without a pause."""

_LOOK_S = 0.1
"""How soon an order to stop is noticed during a pause."""

_ENDINGS = {"stop", "close", "shutdown", "terminate"}

log = structlog.get_logger(__name__)


class Again(Exception):
    """The consumer failed; the reason has been logged."""


class PatientConsumer(consumer.Consumer):  # type: ignore[misc]
    """A consumer that survives anything its broker answers; for `app.Worker(consumer_cls=...)`."""

    class Blueprint(consumer.Consumer.Blueprint):  # type: ignore[misc]
        """The steps of one connection."""

        def start(self, parent: Any) -> None:
            """Connect and consume.

            Raises:
                Again: it could not, or can no longer.
                OSError, RedisError: the connection was lost, which Celery handles itself.
            """
            parent.pause()
            started_at = time.monotonic()
            try:
                super().start(parent)
            except Exception as error:
                if parent.note(error, held_s=time.monotonic() - started_at):
                    raise
                raise Again from error

        def send_all(
            self,
            parent: Any,
            method: str,
            description: str | None = None,
            reverse: bool = True,
            propagate: bool = True,
            args: Sequence[Any] = (),
        ) -> None:
            """Call each step, so that a step that can't shut down cleanly doesn't keep the others from it."""
            if method not in _ENDINGS:
                super().send_all(parent, method, description, reverse, propagate, args)
                return
            for step in reversed(parent.steps) if reverse else parent.steps:
                try:
                    getattr(step, method, _nothing)(parent, *args)
                except Exception as error:
                    log.debug("celery_step_not_ended", step=step.alias, method=method, reason=repr(error))

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.connection_errors: tuple[type[Exception], ...] = (Again, *self.conninfo.connection_errors)
        self._pause_s = 0.0
        self._noted = ""
        logging.getLogger(consumer.__name__).addFilter(_not_of_again)

    def pause(self) -> None:
        """Wait before the next connection.

        Raises:
            SystemExit: the process is to stop.
        """
        until = time.monotonic() + self._pause_s
        while (left_s := until - time.monotonic()) > 0:
            state.maybe_shutdown()
            time.sleep(min(left_s, _LOOK_S))

    def note(self, error: Exception, held_s: float) -> bool:
        """Decide how long to wait after a failure, and log it once; return whether Celery will log it."""
        losses: tuple[type[Exception], ...] = self.conninfo.connection_errors
        lost = isinstance(error, losses) and getattr(error, "errno", 0) != EMFILE
        if held_s >= STABLE_S:
            self._noted, self._pause_s = "", 0.0
        if not (lost and held_s >= STABLE_S):
            self._pause_s = min(MOST_PAUSE_S, max(FIRST_PAUSE_S, 2 * self._pause_s))
        reason = f"{type(error).__name__}: {error}"
        if not lost:
            foreseen = isinstance(error, RedisError | KombuError | OSError)
            tell = log.debug if reason == self._noted else log.warning
            tell("celery_awaited", reason=reason, retry_s=self._pause_s, exc_info=None if foreseen else error)
            self._noted = reason
        return lost

    @staticmethod
    def loop(patient: "PatientConsumer", connection: Any, *args: Any) -> None:
        """Consume; an exception in a timer or callback ends the connection instead of only being logged."""
        connection.connection_errors = (Exception,)
        loop = loops.asynloop if patient.hub else loops.synloop
        loop(patient, connection, *args)


def _nothing(*_: Any) -> None:
    return


def _not_of_again(record: logging.LogRecord) -> bool:
    """Whether Celery would log something that has not been logged yet."""
    return not any(isinstance(argument, Again) for argument in record.args or ())
