"""A gateway in a thread of the test's own process, on a real port of loopback."""

import asyncio
import atexit
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from typing import Any

from headrace import AsyncClient
from headrace.producers.gateway.app import create_app
from headrace.producers.gateway.server import GatewayServer, listen, make_server
from headrace.producers.gateway.state import Gateway
from headrace.schemas.settings.gateway import GatewaySettings

from .waiting import WAIT_S


@dataclass(frozen=True)
class RunningGateway:
    """A gateway that serves.

    Attributes:
        url: without `/v1`.
        state: what its process has.
    """

    url: str
    port: int
    state: Gateway
    server: GatewayServer
    loop: asyncio.AbstractEventLoop

    @property
    def base_url(self) -> str:
        """What OpenAI's clients are given."""
        return f"{self.url}/v1"

    def run(self, coroutine: Any) -> Any:
        """Run a coroutine in the gateway's loop."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(WAIT_S)


@cache
def files_of(redis_url: str) -> str:
    """The store of all gateways of one Redis, since any of them may run a batch of another."""
    folder = mkdtemp(prefix="headrace-files-")
    atexit.register(rmtree, folder, ignore_errors=True)
    return Path(folder).as_uri()


@contextmanager
def gateway(redis_url: str, *, send_buffer: int = 0, **settings: object) -> Iterator[RunningGateway]:
    """Serve with these settings, without keys unless they say otherwise, while the context lasts.

    `send_buffer` is how much the kernel may hold of a response that isn't read.
    """
    usual = {"gateway_auth": False, "gateway_finish_s": 0.2, "files_url": files_of(redis_url)}
    given = {**usual, **settings}
    effective = GatewaySettings.load(redis_url=redis_url, **given)
    client = AsyncClient(redis_url, retry_s=1.0)
    app = create_app(effective, client)
    server = make_server(app)
    with listen("127.0.0.1", 0) as listening:
        if send_buffer:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
        port = listening.getsockname()[1]
        loop: Future[asyncio.AbstractEventLoop] = Future()

        def serve() -> None:
            with asyncio.Runner(loop_factory=server.config.get_loop_factory()) as runner:
                loop.set_result(runner.get_loop())
                runner.run(server.serve(sockets=[listening]))

        thread = threading.Thread(target=serve, name="gateway")
        thread.start()
        try:
            scheme = "https" if effective.gateway_tls_cert else "http"
            url = f"{scheme}://127.0.0.1:{port}"
            yield RunningGateway(url, port, app.state.gateway, server, loop.result(WAIT_S))
        finally:
            server.should_exit = True
            thread.join(WAIT_S)
    assert not thread.is_alive()
