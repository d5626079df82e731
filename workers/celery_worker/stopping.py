"""Stops a Celery worker from outside its own thread."""

import os
import threading
from collections.abc import Callable

import structlog
from celery.worker import state

from ...telemetry import logs

FAREWELL_S = 5.0
"""How long Celery may take to shut down; if its broker doesn't answer, it would take minutes."""

log = structlog.get_logger(__name__)


def stop_celery(status: int) -> None:
    """Stop the Celery worker with this exit status at the next turn of its loop. Call from any thread."""
    state.should_stop = status


def end_within(seconds: float, status: int, clean_up: Callable[[], None] = lambda: None) -> None:
    """End the process with this exit status if it has not ended in time; returns at once.

    Call it when all important work is done. Celery's own shutdown, which remains, may be waiting for its
    broker.
    """

    def end() -> None:
        threading.Event().wait(seconds)
        log.warning("celery_left", reason=f"it has not ended within {seconds:g} s: does its broker respond?")
        clean_up()
        logs.settle()
        os._exit(status)

    threading.Thread(target=end, name="headrace-end", daemon=True).start()
