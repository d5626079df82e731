"""The gateway's process: uvicorn on uvloop and httptools, and how it stops.

A stop goes in three steps: no new connections; answers and streams have `gateway_finish_s` to end; then
streams end with a comment, and their clients continue at another gateway.
"""

import asyncio
import ipaddress
import resource
import signal
import socket
import ssl
import threading
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager, suppress

import structlog
import uvicorn
from fastapi import FastAPI

from ...schemas.errors import BadSetting
from ...schemas.redis.connection import connect, shown_url
from ...schemas.settings.gateway import GatewaySettings
from ...telemetry import logs
from ...telemetry.metrics_server import served
from ..async_client import AsyncClient
from .app import create_app
from .protocol import Bounds, bounded
from .readiness import LoopHealth
from .state import Gateway

END_S = 5.0
"""How long streams and answers have to end once they are told to; the rest are cut off."""

BACKLOG = 2048

_FAMILIES = (socket.AF_INET, socket.AF_INET6)

log = structlog.get_logger(__name__)


class GatewayServer(uvicorn.Server):
    """uvicorn's server, with a stop in steps."""

    def __init__(self, config: uvicorn.Config, gateway: Gateway) -> None:
        super().__init__(config)
        self._gateway = gateway

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop."""
        log.info("gateway_stopping", connections=len(self.server_state.connections))
        self._gateway.draining.set()
        loop = asyncio.get_running_loop()
        cut = loop.call_later(self._gateway.settings.gateway_finish_s, self._gateway.cut)
        try:
            await super().shutdown(sockets)
        finally:
            cut.cancel()

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Stop on SIGTERM and SIGINT, and end with status 0; a second SIGINT doesn't wait."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        numbers = (signal.SIGTERM, signal.SIGINT)
        before = {number: signal.signal(number, self.handle_exit) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def make_server(app: FastAPI) -> GatewayServer:
    """A server of the app, which listens on the sockets that it is run with."""
    gateway: Gateway = app.state.gateway
    settings = gateway.settings
    bounds = Bounds(
        header_bytes=settings.gateway_max_header_bytes,
        header_s=settings.gateway_header_s,
        body_s=settings.gateway_body_s,
        write_s=settings.gateway_write_s,
        connections=settings.gateway_max_connections,
    )
    config = uvicorn.Config(
        app,
        loop="uvloop",
        http=bounded(bounds),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=settings.gateway_idle_s,
        timeout_graceful_shutdown=round(settings.gateway_finish_s + END_S),
        ssl_certfile=settings.gateway_tls_cert,
        ssl_keyfile=settings.gateway_tls_key,
    )
    try:
        config.load()
    except (OSError, ssl.SSLError) as error:
        raise BadSetting(f"setting gateway_tls_cert: the certificate can't be used: {error}") from None
    return GatewayServer(config, gateway)


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens on this address.

    Raises:
        BadSetting: listening there is impossible.
    """
    try:
        (family, _, _, _, address), *_ = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        listening = socket.socket(family)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(address)
            listening.listen(BACKLOG)
        except OSError:
            listening.close()
            raise
    except OSError as error:
        where = f"{host}:{port}"
        raise BadSetting(f"setting gateway_port: can't listen on {where}: {error.strerror}") from None
    return listening


def inherited(fd: int) -> socket.socket:
    """The listening socket that another process has opened and left to this one.

    Raises:
        BadSetting: the file descriptor is something else.
    """
    try:
        listening = socket.socket(fileno=fd)
        if listening.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) and listening.family in _FAMILIES:
            return listening
    except OSError:
        pass
    else:
        listening.close()
    raise BadSetting(f"--fd {fd}: not a TCP socket that listens") from None


def check_exposure(settings: GatewaySettings) -> None:
    """Refuse to serve without keys where others can connect.

    Raises:
        BadSetting: it would.
    """
    if settings.gateway_auth or settings.gateway_host == "localhost":
        return
    try:
        alone = ipaddress.ip_address(settings.gateway_host).is_loopback
    except ValueError:
        alone = False
    if not alone:
        raise BadSetting(
            f"setting gateway_host = {settings.gateway_host!r}: without API keys (--no-auth) only a loopback "
            "address such as 127.0.0.1 is allowed; make keys with `headrace keys create`"
        )


def raise_open_files() -> int:
    """Raise the limit of open files as far as this process may; return it.

    Every connection is an open file, and the usual soft limit of 1,024 would refuse the rest.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):  # not even this may be allowed, as in some sandboxes
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    return soft


def run(settings: GatewaySettings, fd: int | None = None) -> int:
    """Serve until told to stop; return the exit status.

    Args:
        settings: its settings.
        fd: a listening socket to serve on, in place of the settings' address.

    Raises:
        BadSetting, BrokerUnavailable: a setting can't be used; nothing has been started.
    """
    with ExitStack() as stack:
        if fd is not None:
            listening = stack.enter_context(inherited(fd))
            host, port = listening.getsockname()[:2]
            settings = settings.model_copy(update={"gateway_host": host, "gateway_port": port})
        check_exposure(settings)
        # Checks the URL before anything listens; nothing is sent.
        connect(settings.redis_url).close()
        app = create_app(settings, AsyncClient.from_env(settings.redis_url))
        server = make_server(app)
        if fd is None:
            listening = stack.enter_context(listen(settings.gateway_host, settings.gateway_port))
        logs.configure(settings.log_level, process="gateway")
        scheme = "https" if settings.gateway_tls_cert else "http"
        host, port = listening.getsockname()[:2]
        where = f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"
        if not settings.gateway_auth:
            log.warning("gateway_without_keys", reason="everybody on this machine is the tenant `default`")
        about = {"redis": shown_url(settings.redis_url), "open_files": raise_open_files()}
        log.info("gateway_starting", url=f"{where}/v1", **about)
        loop_factory = server.config.get_loop_factory()
        with asyncio.Runner(loop_factory=loop_factory) as runner, _pages(app, runner.get_loop()):
            runner.run(server.serve(sockets=[listening]))
    log.info("gateway_ended")
    logs.settle()
    return 0


@contextmanager
def _pages(app: FastAPI, loop: asyncio.AbstractEventLoop) -> Iterator[None]:
    """Serve metrics and health on a port of their own, if there is one."""
    gateway: Gateway = app.state.gateway
    settings = gateway.settings
    with ExitStack() as stack:
        if settings.metrics_port is not None:
            health = LoopHealth(gateway, loop)
            stack.enter_context(
                served(gateway.metrics.registry, health, settings.metrics_host, settings.metrics_port)
            )
        yield
