"""`headrace callbacks`: a Celery worker that runs almost no tasks, but does what follows from jobs.

As a Celery worker it appears in Flower, answers `inspect` and obeys `revoke`. The only tasks it takes are
generations that were sent by name, which it puts on the stream.
"""

import logging
import os
import platform
import warnings
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import structlog
from celery import Celery, bootsteps
from celery.exceptions import SecurityWarning
from celery.signals import setup_logging, worker_shutting_down
from kombu import Queue
from prometheus_client import CollectorRegistry

from ...schemas.redis.connection import connect, shown_url
from ...telemetry import logs
from ...telemetry.metrics_server import served
from ..celery_worker.consumer import PatientConsumer
from ..celery_worker.stopping import FAREWELL_S, end_within, stop_celery
from ..known_settings import unknown
from ..settings import CallbacksSettings
from .metrics import CallbackMetrics
from .service import END_S, Service

RESTORE_S = 60
"""A task that this process took but didn't finish within this time goes back to its queue."""

ANSWER_S = 5.0
"""How long Celery's broker or result backend may take to answer before the task is left for later."""

INTERNAL_ERROR = "Exception raised outside body"
"""Celery's warning, with a traceback, when something can't follow a task; it is logged separately."""

log = structlog.get_logger(__name__)


class ServiceStep(bootsteps.StartStopStep):  # type: ignore[misc]
    """Runs the service for as long as the Celery worker runs."""

    def __init__(self, worker: Any, service: Service, **options: Any) -> None:
        super().__init__(worker, **options)
        self._service = service
        worker.headrace = service  # where the control commands find it

    def start(self, worker: Any) -> None:
        """Start the service's threads."""
        self._service.start()

    def stop(self, worker: Any) -> None:
        """End them."""
        self._service.stop()

    def terminate(self, worker: Any) -> None:
        """End them."""
        self._service.stop()

    def info(self, worker: Any) -> dict[str, int]:
        """What is merged into `inspect stats`."""
        return self._service.info()


def run(settings: CallbacksSettings, app: Celery) -> int:
    """Serve until told to stop; return the exit status.

    Raises:
        BadSetting, BrokerUnavailable: a setting can't be used; nothing has been started.
    """
    hostname = f"callbacks@{platform.node()}-{os.getpid()}"
    logs.configure(settings.log_level, host=hostname)
    setup_logging.connect(_keep_logging)
    worker_shutting_down.connect(_end)
    warnings.simplefilter("ignore", SecurityWarning)
    warnings.filterwarnings("ignore", INTERNAL_ERROR, RuntimeWarning)
    logging.getLogger("celery.app.trace").setLevel(logging.WARNING)  # it would log what was generated
    connect(settings.redis_url).close()
    log.info("callbacks_starting", app=settings.app, redis=shown_url(settings.redis_url))
    for sentence in unknown():
        log.warning("unknown_setting", reason=sentence)
    configure(app, settings)
    registry = CollectorRegistry()
    service = Service(settings, app, CallbackMetrics(registry), on_failure=lambda: stop_celery(1))
    with _pages(settings, registry, service):
        worker = app.Worker(
            hostname=hostname,
            pool="solo",
            consumer_cls=PatientConsumer,
            concurrency=1,
            loglevel=settings.log_level.upper(),
            task_events=True,
            queues=[settings.callbacks_queue],
            without_gossip=True,
            without_mingle=True,
            quiet=True,
            service=service,
        )
        worker.start()
    status: int = worker.exitcode or 0
    log.info("callbacks_ended", status=status)
    logs.settle()
    return status


def configure(app: Celery, settings: CallbacksSettings) -> None:
    """Configure what this worker of the app does differently from the others."""
    app.conf.update(
        broker_connection_retry=True,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        worker_prefetch_multiplier=1,
        worker_cancel_long_running_tasks_on_connection_loss=True,  # none exist; Celery warns if unset
        task_create_missing_queues=True,
    )
    # Beside the app's own: what follows from a job is sent to those, as they are declared.
    if settings.callbacks_queue not in app.amqp.queues:
        app.amqp.queues.add(Queue(settings.callbacks_queue, routing_key=settings.callbacks_queue))
    # Results in Redis; Celery's own defaults are two minutes, and for connecting none.
    app.conf.redis_socket_timeout = app.conf.redis_socket_connect_timeout = ANSWER_S
    if (app.conf.broker_url or "").startswith(("redis", "sentinel")):
        patience = {"socket_timeout": ANSWER_S, "socket_connect_timeout": ANSWER_S}
        # Lists of its own, so that its short timeout never restores what another worker is still at.
        app.conf.broker_transport_options = (
            patience
            | dict(app.conf.broker_transport_options or {})
            | {
                "visibility_timeout": RESTORE_S,
                "unacked_restore_throttle": 1,
                "unacked_key": "headrace_unacked",
                "unacked_index_key": "headrace_unacked_index",
                "unacked_mutex_key": "headrace_unacked_mutex",
            }
        )
    app.steps["worker"].add(ServiceStep)


def _pages(
    settings: CallbacksSettings, registry: CollectorRegistry, service: Service
) -> AbstractContextManager[None]:
    """Serves metrics and health while the context lasts, if a port is set.

    Raises:
        BadSetting: the port can't be had.
    """
    if settings.metrics_port is None:
        return nullcontext()
    return served(registry, service, settings.metrics_host, settings.metrics_port)


def _end(exitcode: int = 0, **_: Any) -> None:
    """Note that Celery has been told to stop."""
    end_within(END_S + FAREWELL_S, exitcode)


def _keep_logging(**_: Any) -> None:
    """Keep Celery from setting up logging of its own, by listening to its signal."""
