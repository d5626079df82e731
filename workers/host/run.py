"""`headrace worker`: one host from its start to its exit status."""

import os
import platform
import shutil
import sys
import warnings
from collections.abc import Sequence
from functools import partial
from typing import Any

import structlog
from celery.exceptions import SecurityWarning
from celery.signals import setup_logging

from ...schemas.redis.connection import connect, shown_url
from ...telemetry import logs
from ..celery_worker.consumer import PatientConsumer
from ..celery_worker.revoke import Canceller
from ..celery_worker.stopping import FAREWELL_S, end_within, stop_celery
from ..known_settings import unknown
from ..metrics import HostMetrics
from ..models import name_to_serve
from ..settings import WorkerSettings
from .app import UNUSED_QUEUE, Host, make_app
from .backoff import RestartPolicy
from .celery_view import CeleryView
from .endpoint import metrics_endpoint
from .health import HostHealth
from .recovery import recover_jobs
from .supervisor import Supervisor

ENGINE_COMMAND = (sys.executable, "-m", "headrace.workers.engine_process.main")

log = structlog.get_logger(__name__)


def run(
    settings: WorkerSettings,
    engine_command: Sequence[str] = ENGINE_COMMAND,
    policy: RestartPolicy | None = None,
) -> int:
    """Serve until told to stop; return the exit status: 0 after a hand-over, 1 if the model can't be served.

    Args:
        settings: what to serve and how.
        engine_command: starts an engine process.
        policy: when to restart one that died.

    Raises:
        BadSetting, BrokerUnavailable: a setting can't be used; nothing has been started.
    """
    model = name_to_serve(settings.model, settings.served_name)
    hostname = f"headrace@{platform.node()}-{os.getpid()}"
    logs.configure(settings.log_level, host=hostname)
    setup_logging.connect(_keep_logging)
    # About pickles and root: the host takes no tasks, and its control messages are JSON.
    warnings.simplefilter("ignore", SecurityWarning)
    connect(settings.redis_url).close()
    log.info("host_starting", model=model, engines=settings.engines, redis=shown_url(settings.redis_url))
    for sentence in unknown():
        log.warning("unknown_setting", reason=sentence)
    health = HostHealth(settings.lease_s)
    with metrics_endpoint(settings, health) as metrics_dir:
        canceller = Canceller(
            settings.redis_url, settings.namespace, settings.partitions, models=lambda: (model,)
        )
        celery_view = CeleryView(canceller.cancel)
        supervisor = Supervisor(
            settings,
            engine_command,
            HostMetrics(model),
            metrics_dir=metrics_dir,
            on_death=partial(recover_jobs, settings),
            on_job=celery_view.job,
            on_engine=celery_view.engine,
            on_end=partial(_end, metrics_dir),
            policy=policy,
        )
        health.supervisor = supervisor
        worker = make_app(settings).Worker(
            hostname=hostname,
            pool="solo",
            consumer_cls=PatientConsumer,
            concurrency=1,
            loglevel=settings.log_level.upper(),
            task_events=True,
            exclude_queues=[UNUSED_QUEUE],
            without_gossip=True,
            without_mingle=True,
            quiet=True,
            host=Host(supervisor, celery_view, canceller),
        )
        try:
            worker.start()
        finally:
            supervisor.kill()
            supervisor.join()
    status: int = worker.exitcode or 0
    log.info("host_ended", status=status)
    logs.settle()
    return status


def _end(metrics_dir: str | None, status: int) -> None:
    """Stop the Celery worker, because every engine process has ended."""
    stop_celery(status)
    end_within(FAREWELL_S, status, lambda: shutil.rmtree(metrics_dir or "", ignore_errors=True))


def _keep_logging(**_: Any) -> None:
    """Keep Celery from setting up logging of its own, by listening to its signal."""
