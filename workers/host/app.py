"""The host's Celery app: how it reaches Redis, and the step that ties the supervisor to the Celery worker.

The host takes no tasks. It consumes from no queue at all, so nothing is ever sent to it that it could lose.
In every other respect (events, `inspect`, `control`, Flower) it is a Celery worker.
"""

from dataclasses import dataclass
from typing import Any

import structlog
from celery import Celery, bootsteps

from ...schemas.redis.celery_broker import Broker, broker
from ..celery_worker.revoke import Canceller
from ..settings import WorkerSettings
from .celery_view import CeleryView, CeleryViewStep, add_task
from .shutdown import on_signals
from .supervisor import Supervisor

UNUSED_QUEUE = "headrace.host"
"""The default queue, whose name Celery requires; the host doesn't consume from it."""

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Host:
    """Carries out Celery's control commands on the host (see `celery_worker.control`)."""

    supervisor: Supervisor
    celery_view: CeleryView
    canceller: Canceller

    def drain(self, finish_s: float) -> str:
        """Hand all jobs over and stop the engines."""
        return self.supervisor.pause(finish_s)

    def undrain(self) -> str:
        """Start them again."""
        return self.supervisor.resume()

    def cancel(self, name: str) -> str:
        """Cancel a job."""
        return self.canceller.cancel(name)

    def kv_stats(self) -> list[dict[str, str | int]]:
        """KV pages and jobs of each engine."""
        return self.supervisor.kv_stats()


class EnginesStep(bootsteps.StartStopStep):  # type: ignore[misc]
    """Runs the supervisor for as long as the Celery worker runs.

    It is a step of the worker, not of its consumer: those restart at each reconnect to Redis.
    """

    def __init__(self, worker: Any, host: Host, **options: Any) -> None:
        super().__init__(worker, **options)
        self._supervisor = host.supervisor
        worker.headrace = host  # where the consumer's steps and the control commands find it

    def start(self, worker: Any) -> None:
        """Start the engine processes, and replace Celery's signal handlers, which are installed by now."""
        on_signals(self._supervisor)
        self._supervisor.start()

    def stop(self, worker: Any) -> None:
        """Wait for the hand-over if Celery's own shutdown came first (`control.shutdown`)."""
        self._supervisor.drain()
        self._supervisor.join()

    def terminate(self, worker: Any) -> None:
        """Stop at once."""
        self._supervisor.kill()
        self._supervisor.join()

    def info(self, worker: Any) -> dict[str, str | int]:
        """What is merged into `inspect stats`."""
        return self._supervisor.info()


def make_app(settings: WorkerSettings) -> Celery:
    """Make the Celery app of a host on the Redis of `settings`."""
    found = (
        Broker(settings.celery_broker_url, None, settings.celery_broker_transport_options)
        if settings.celery_broker_url
        else broker(settings.redis_url, settings.namespace)
    )
    if found is None:
        log.warning(
            "not_in_celery", reason="Celery can't use a Redis Cluster, so Flower and inspect see no hosts"
        )
        found = Broker("memory://", None, {})
    app = Celery("headrace", broker=found.url, set_as_current=False)
    app.conf.update(
        broker_use_ssl=found.tls,
        broker_transport_options={
            **found.transport_options,
            "socket_timeout": 15.0,
            "socket_connect_timeout": 5.0,
            "socket_keepalive": True,
            "health_check_interval": 15,
        },
        # Redis may be unreachable for any time, at startup and later; host and engine processes wait.
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        task_default_queue=UNUSED_QUEUE,
        worker_send_task_events=True,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        worker_cancel_long_running_tasks_on_connection_loss=True,  # none exist; Celery warns if unset
    )
    app.steps["worker"].add(EnginesStep)
    app.steps["consumer"].add(CeleryViewStep)
    add_task(app)
    return app
