"""Celery's consumer, for processes that have more to do than to be one: whatever comes, it tries again.

Celery ends a worker whose broker refuses in a way that it does not take for a lost connection: a full Redis,
a replica that only reads, missing rights, a node of a Cluster. What people see in Flower is no reason to stop
serving. So here every exception, be it at the start, in an event, a heartbeat or a reply, is one more reason
to connect again, after a pause that grows. Only an order to stop ends the consumer.
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
"""A connection that held for so long was well: its loss is the first again, and nothing to wait for."""

_LOOK_S = 0.1
"""How soon an order to stop is heard in a pause."""

_ENDINGS = {"stop", "close", "shutdown", "terminate"}

log = structlog.get_logger(__name__)


class Again(Exception):
    """Something was in the way of the consumer; it has been logged."""


class PatientConsumer(consumer.Consumer):  # type: ignore[misc]
    """Outlives whatever its broker says; for `app.Worker(consumer_cls=...)`."""

    class Blueprint(consumer.Consumer.Blueprint):  # type: ignore[misc]
        """The steps of one connection."""

        def start(self, parent: Any) -> None:
            """Connect and consume.

            Raises:
                Again: it could not, or can no longer.
                OSError, RedisError: the connection was lost, which Celery knows what to do about.
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
            """Have each step do it; none is kept from its ending by another that can't say goodbye."""
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
        """Decide how long to wait for what was in the way, and say it once; whether Celery will say it."""
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
        """Consume; what a timer or callback runs into ends the connection, instead of a line in the log."""
        connection.connection_errors = (Exception,)
        loop = loops.asynloop if patient.hub else loops.synloop
        loop(patient, connection, *args)


def _nothing(*_: Any) -> None:
    return


def _not_of_again(record: logging.LogRecord) -> bool:
    """Whether Celery says something that was not said yet."""
    return not any(isinstance(argument, Again) for argument in record.args or ())
