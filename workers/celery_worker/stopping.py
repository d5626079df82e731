"""Ends a Celery worker from outside its own thread."""

import os
import threading
from collections.abc import Callable

import structlog
from celery.worker import state

from ...telemetry import logs

FAREWELL_S = 5.0
"""What Celery gets to say goodbye: where its broker does not answer that would take minutes."""

log = structlog.get_logger(__name__)


def stop_celery(status: int) -> None:
    """Have the Celery worker stop with this exit status, at the next turn of its loop; from any thread."""
    state.should_stop = status


def end_within(seconds: float, status: int, clean_up: Callable[[], None] = lambda: None) -> None:
    """End the process with this exit status if it has not ended by then; returns at once.

    For when all that matters is done. What is left is Celery's, which may be waiting for its broker.
    """

    def end() -> None:
        threading.Event().wait(seconds)
        log.warning("celery_left", reason=f"it has not ended within {seconds:g} s: does its broker respond?")
        clean_up()
        logs.settle()
        os._exit(status)

    threading.Thread(target=end, name="headrace-end", daemon=True).start()
