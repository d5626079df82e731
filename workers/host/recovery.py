"""Tells the queue of an engine process's death at once, before its leases lapse."""

import signal
import threading

import structlog

from ...schemas.errors import BrokerUnavailable
from ...schemas.keys import Tag
from ...schemas.redis.connection import connect
from ...schemas.scripts import recover, run
from ..ended_jobs import log_ended
from ..models import served_name
from ..settings import WorkerSettings
from ..supervision.lifeline import HUNG

_FROM_OUTSIDE = {-signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT}
"""Exit statuses for which the jobs aren't to blame: a person or the kernel ended the process."""

log = structlog.get_logger(__name__)


def recover_jobs(settings: WorkerSettings, worker_id: str, status: int) -> None:
    """Queue the jobs of an engine process that ended with `status`; returns at once.

    If Redis doesn't answer, their leases lapse by themselves.
    """
    threading.Thread(
        target=_recover, args=(settings, worker_id, status), name="headrace-recovery", daemon=True
    ).start()


def _how(status: int) -> str:
    """An exit status in words."""
    if status == HUNG:
        return "was stuck"
    return f"killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"


def _recover(settings: WorkerSettings, worker_id: str, status: int) -> None:
    name = settings.served_name or served_name(settings.model)
    blamed = status not in _FROM_OUTSIDE
    try:
        with connect(settings.redis_url) as redis:
            recovered = 0
            for partition in range(settings.partitions):
                tag, left = Tag(name, partition, settings.namespace), 1
                while left:
                    call = recover(tag, worker_id, settings.queue, blamed=blamed, how=_how(status))
                    jobs, left, ended = run(redis, call)
                    recovered += jobs
                    log_ended(ended, model=name)
    except BrokerUnavailable as error:
        log.warning("jobs_left_to_their_leases", engine=worker_id, reason=str(error))
        return
    log.info("jobs_recovered", engine=worker_id, jobs=recovered, blamed=blamed)
