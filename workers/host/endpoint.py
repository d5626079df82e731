"""Serves metrics and health of the host and its engine processes."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry
from prometheus_client.multiprocess import MultiProcessCollector

from ...telemetry.health import Health
from ...telemetry.metrics_server import served
from ..metrics import HOST_PLACE, share
from ..settings import WorkerSettings


@contextmanager
def metrics_endpoint(settings: WorkerSettings, health: Health) -> Iterator[str | None]:
    """Serve `health` and the metrics that this host's processes write into the folder that is yielded.

    Yields None if no port is set.

    Raises:
        BadSetting: this process can't listen on the port.
    """
    if settings.metrics_port is None:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="headrace-metrics-") as folder:
        share(folder, HOST_PLACE)
        registry = CollectorRegistry()
        MultiProcessCollector(registry, path=folder)
        with served(registry, health, settings.metrics_host, settings.metrics_port):
            yield folder
