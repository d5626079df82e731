"""`revoke` for generations: it cancels the job.

Celery's own handler only remembers the id in each worker's memory, which does nothing for a queued job, and
kills the pool process of a running one, though generations have none. Only headrace's own Celery workers
import this module, so `revoke` is unchanged in all others.
"""

from collections.abc import Callable, Iterable
from typing import Any

import structlog
from celery.utils.functional import maybe_list
from celery.worker.control import control_command, ok
from celery.worker.state import revoked

from ...schemas.errors import JobNotFound
from ...schemas.ids import job_id_of
from ...schemas.keys import tag_of
from ...schemas.redis.connection import connect
from ...schemas.scripts import CancelStatus, cancel, run_many
from .control import operated

MAX_RETRIES = 10
"""A task that was retried more often than this can't be found by its id."""

CONNECT_S = 2.0
"""The command runs between two heartbeats, so an unreachable Redis must not delay them for long."""

log = structlog.get_logger(__name__)


class Canceller:
    """Cancels jobs by their own id or their task's.

    Args:
        models: the served names whose queues are searched for a task's job.
    """

    def __init__(
        self, redis_url: str, namespace: str, partitions: int, models: Callable[[], Iterable[str]]
    ) -> None:
        self._redis = connect(redis_url, socket_timeout=CONNECT_S, socket_connect_timeout=CONNECT_S)
        self._namespace, self._partitions, self._models = namespace, partitions, models

    def cancel(self, name: str) -> str:
        """Cancel a job; return its state, or `missing`.

        Raises:
            BrokerUnavailable: Redis can't be reached or refuses.
        """
        calls = [cancel(tag_of(job_id, self._namespace), job_id) for job_id in self._candidates(name)]
        found = "missing"
        for status in run_many(self._redis, calls):
            if isinstance(status, CancelStatus):
                log.info("cancel", name=name, status=status.value)
                found = status.value
            elif not isinstance(status, JobNotFound):
                raise status
        return found

    def _candidates(self, name: str) -> list[str]:
        try:
            tag_of(name)
        except JobNotFound:
            identities = (name, *(f"{name}/{retry}" for retry in range(1, MAX_RETRIES + 1)))
            return [
                job_id_of(identity, model, self._partitions)
                for model in self._models()
                for identity in identities
            ]
        return [name]


@control_command(variadic="task_id", signature="[id1 [id2 [... [idN]]]]")  # type: ignore[untyped-decorator]
def revoke(state: Any, task_id: Any, terminate: bool = False, signal: Any = None, **_: Any) -> Any:
    """Revoke task by task id (or list of ids)."""
    ids = maybe_list(task_id) or []
    revoked.update(ids)
    host = operated(state)
    return ok(", ".join(f"{name}: {host.cancel(name)}" for name in ids))
