"""Serves metrics over HTTP, for Prometheus."""

import errno
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import structlog
from prometheus_client import CollectorRegistry, start_http_server

from ..schemas.errors import BadSetting

TAKEN_S = 5.0
"""How often a port that is another process's is tried again."""

log = structlog.get_logger(__name__)


@contextmanager
def served(registry: CollectorRegistry, host: str, port: int) -> Iterator[None]:
    """Serve what is in `registry` while the context lasts; port 0 takes a free one.

    A port that is taken, by the process that this one follows perhaps, is listened on when it is free.

    Raises:
        BadSetting: the port can never be had here.
    """
    server = _Server(registry, host, port)
    if not server.start():
        log.warning("metrics_port_taken", host=host, port=port, retry_s=TAKEN_S)
    try:
        yield
    finally:
        server.stop()


class _Server:
    def __init__(self, registry: CollectorRegistry, host: str, port: int) -> None:
        self._registry, self._host, self._port = registry, host, port
        self._served: tuple[Any, threading.Thread] | None = None
        self._stopping = threading.Event()
        self._waiter = threading.Thread(target=self._wait, name="headrace-metrics", daemon=True)

    def start(self) -> bool:
        """Serve now, which gives True, or as soon as the port is free."""
        if not self._listen():
            self._waiter.start()
        return self._served is not None

    def stop(self) -> None:
        self._stopping.set()
        if self._waiter.ident is not None:
            self._waiter.join()
        if self._served is not None:
            server, thread = self._served
            server.shutdown()
            server.server_close()
            thread.join()

    def _listen(self) -> bool:
        try:
            self._served = start_http_server(self._port, self._host, self._registry)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return False
            place = f"{self._host}:{self._port}"
            raise BadSetting(f"setting metrics_port: can't listen on {place}: {error.strerror}") from None
        log.info("metrics_served", host=self._host, port=self._served[0].server_port)
        return True

    def _wait(self) -> None:
        while not self._stopping.wait(TAKEN_S):
            if self._listen():
                return
