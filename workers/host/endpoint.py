"""Serves /metrics for the host and its engine processes."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

import structlog
from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.multiprocess import MultiProcessCollector

from ...schemas.config import BadSetting
from ..metrics import HOST_PLACE, share
from ..settings import WorkerSettings

log = structlog.get_logger(__name__)


@contextmanager
def metrics_endpoint(settings: WorkerSettings) -> Iterator[str | None]:
    """Serve what the processes of this host write into the folder given; None when nobody asks for metrics.

    Raises:
        BadSetting: the port can't be had.
    """
    if settings.metrics_port is None:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="headrace-metrics-") as folder:
        share(folder, HOST_PLACE)
        registry = CollectorRegistry()
        MultiProcessCollector(registry, path=folder)
        try:
            server, thread = start_http_server(settings.metrics_port, settings.metrics_host, registry)
        except OSError as error:
            place = f"{settings.metrics_host}:{settings.metrics_port}"
            raise BadSetting(f"setting metrics_port: can't listen on {place}: {error.strerror}") from None
        log.info("metrics_served", host=settings.metrics_host, port=server.server_port)
        try:
            yield folder
        finally:
            server.shutdown()
            server.server_close()
            thread.join()
