"""Serves `/metrics` for Prometheus, and `/livez` and `/readyz` for orchestrators; nothing else."""

import errno
import json
import socket
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

import structlog
from prometheus_client import CollectorRegistry, make_wsgi_app

from ..schemas.errors import BadSetting
from .health import Health

TAKEN_S = 5.0
"""How often a port that another process holds is tried again."""

log = structlog.get_logger(__name__)


def pages(registry: CollectorRegistry, health: Health) -> WSGIApplication:
    """The WSGI app: `/metrics`; `/livez` and `/readyz`, 200 or 503 with reasons as JSON; 404 elsewhere."""
    metrics, answers = make_wsgi_app(registry), {"/livez": health.live, "/readyz": health.ready}

    def answer(environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        path, method = environ.get("PATH_INFO", ""), environ["REQUEST_METHOD"]
        if method not in ("GET", "HEAD"):
            allowed = "Allow", "GET, HEAD"
            return _say(start, "405 Method Not Allowed", {"error": "only GET and HEAD"}, allowed)
        if path == "/metrics":
            found = metrics(environ, start)
        elif path in answers:
            report = answers[path]()
            found = _say(start, "503 Service Unavailable" if report.problems else "200 OK", report.body())
        else:
            found = _say(start, "404 Not Found", {"error": "try /metrics, /livez or /readyz"})
        return found if method == "GET" else []

    return answer


def _say(
    start: StartResponse, status: str, body: dict[str, Any], *headers: tuple[str, str]
) -> Iterable[bytes]:
    text = json.dumps(body).encode() + b"\n"
    kind = ("Content-Type", "application/json")
    start(status, [kind, ("Content-Length", str(len(text))), ("Cache-Control", "no-store"), *headers])
    return [text]


@contextmanager
def served(registry: CollectorRegistry, health: Health, host: str, port: int) -> Iterator[None]:
    """Serve `registry` and `health` while the context lasts; port 0 picks a free one.

    If the port is taken, perhaps by the process that this one replaces, listen as soon as it is free.

    Raises:
        BadSetting: this process can never listen on the port.
    """
    server = _Server(pages(registry, health), host, port)
    if not server.start():
        log.warning("metrics_port_taken", host=host, port=port, retry_s=TAKEN_S)
    try:
        yield
    finally:
        server.stop()


class _HTTP(ThreadingMixIn, WSGIServer):
    daemon_threads = True  # a silent client delays neither other clients nor the shutdown

    def handle_error(self, *_: Any) -> None:
        """Log nothing about a client that hung up early."""


class _HTTP6(_HTTP):
    address_family = socket.AF_INET6


class _Quiet(WSGIRequestHandler):
    timeout = 10  # a connection without a request

    def log_message(self, *_: Any) -> None:
        """Log nothing about requests that come every few seconds."""


class _Server:
    def __init__(self, pages: WSGIApplication, host: str, port: int) -> None:
        self._pages, self._host, self._port = pages, host, port
        self._served: tuple[WSGIServer, threading.Thread] | None = None
        self._stopping = threading.Event()
        self._waiter = threading.Thread(target=self._wait, name="headrace-metrics", daemon=True)

    def start(self) -> bool:
        """Serve now and return True, or as soon as the port is free."""
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
            (family, *_), *_ = socket.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
            server = _HTTP6 if family is socket.AF_INET6 else _HTTP
            httpd = make_server(self._host, self._port, self._pages, server, _Quiet)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return False
            place = f"{self._host}:{self._port}"
            raise BadSetting(f"setting metrics_port: can't listen on {place}: {error.strerror}") from None
        thread = threading.Thread(target=httpd.serve_forever, name="headrace-metrics-http", daemon=True)
        thread.start()
        self._served = httpd, thread
        log.info("metrics_served", host=self._host, port=httpd.server_port)
        return True

    def _wait(self) -> None:
        while not self._stopping.wait(TAKEN_S):
            if self._listen():
                return
