"""Ends a Celery worker from outside its own thread."""

from celery.worker import state


def stop_celery(status: int) -> None:
    """Have the Celery worker stop with this exit status, at the next turn of its loop; from any thread."""
    state.should_stop = status
