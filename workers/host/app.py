"""The host's Celery app: how it reaches Redis, and the step that ties the supervisor to the Celery worker.

The host takes no tasks: it consumes from no queue at all, so that nothing it could lose is ever sent to it.
It is a Celery worker for everything else: events, `inspect`, `control`, Flower.
"""

from typing import Any
from urllib.parse import quote

from celery import Celery, bootsteps
from redis.connection import SSLConnection, parse_url

from ...schemas.keys import celery_prefix
from ..settings import WorkerSettings
from .shutdown import on_signals
from .supervisor import Supervisor

UNUSED_QUEUE = "headrace.host"
"""Celery wants the name of a default queue; the host is told not to consume from it."""


class EnginesStep(bootsteps.StartStopStep):  # type: ignore[misc]
    """Runs the supervisor for as long as the Celery worker runs.

    It is a step of the worker, not of its consumer: those restart at each reconnect to Redis.
    """

    def __init__(self, worker: Any, supervisor: Supervisor, **options: Any) -> None:
        super().__init__(worker, **options)
        self._supervisor = supervisor

    def start(self, worker: Any) -> None:
        """Start the engine processes; Celery's signal handlers are in place by now and are replaced."""
        on_signals(self._supervisor)
        self._supervisor.start()

    def stop(self, worker: Any) -> None:
        """Wait for the hand-over, where Celery's own shutdown came first (`control.shutdown`)."""
        self._supervisor.drain()
        self._supervisor.join()

    def terminate(self, worker: Any) -> None:
        """End now."""
        self._supervisor.kill()
        self._supervisor.join()

    def info(self, worker: Any) -> dict[str, str | int]:
        """Merged into `inspect stats`."""
        return self._supervisor.info()


def make_app(settings: WorkerSettings) -> Celery:
    """The Celery app of a host on the Redis of `settings`."""
    url, ssl_options = broker(settings.redis_url)
    app = Celery("headrace", broker=url, set_as_current=False)
    app.conf.update(
        broker_use_ssl=ssl_options,
        broker_transport_options={
            "global_keyprefix": celery_prefix(settings.namespace),
            "socket_timeout": 15.0,
            "socket_connect_timeout": 5.0,
            "socket_keepalive": True,
            "health_check_interval": 15,
        },
        # Redis may be away for any time, at the start and later: engine processes and host wait for it.
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        task_default_queue=UNUSED_QUEUE,
        worker_send_task_events=True,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        worker_cancel_long_running_tasks_on_connection_loss=True,  # there are none; undecided, Celery warns
    )
    app.steps["worker"].add(EnginesStep)
    return app


def broker(redis_url: str) -> tuple[str, dict[str, Any] | None]:
    """A Redis URL as Celery writes it, and its TLS options; None without TLS.

    Raises:
        ValueError: it is no Redis URL.
    """
    parts = dict(parse_url(redis_url))
    login = f"{quote(parts.get('username') or '', safe='')}:{quote(parts.get('password') or '', safe='')}@"
    login = "" if login == ":@" else login
    database = parts.get("db", 0)
    if "path" in parts:
        return f"redis+socket://{login}{quote(parts['path'])}?virtual_host={database}", None
    host = parts.get("host", "localhost")
    host = f"[{host}]" if ":" in host else host
    address = f"{login}{host}:{parts.get('port', 6379)}/{database}"
    if parts.get("connection_class") is not SSLConnection:
        return f"redis://{address}", None
    options = {name: value for name, value in parts.items() if name.startswith("ssl_")}
    return f"rediss://{address}", {"ssl_cert_reqs": "required"} | options
