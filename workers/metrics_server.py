"""Serves metrics over HTTP, for Prometheus."""

from collections.abc import Iterator
from contextlib import contextmanager

import structlog
from prometheus_client import CollectorRegistry, start_http_server

from ..schemas.config import BadSetting

log = structlog.get_logger(__name__)


@contextmanager
def served(registry: CollectorRegistry, host: str, port: int) -> Iterator[None]:
    """Serve what is in `registry` while the context lasts; port 0 takes a free one.

    Raises:
        BadSetting: the port can't be had.
    """
    try:
        server, thread = start_http_server(port, host, registry)
    except OSError as error:
        place = f"{host}:{port}"
        raise BadSetting(f"setting metrics_port: can't listen on {place}: {error.strerror}") from None
    log.info("metrics_served", host=host, port=server.server_port)
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
