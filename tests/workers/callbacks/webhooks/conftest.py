"""Receivers of webhooks on this machine, and who sends to them."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import pytest
import trustme

from headrace.workers.callbacks.webhooks.guard import ReceiverGuard
from headrace.workers.callbacks.webhooks.sender import Sender

LOOPBACK = "127.0.0.1"
Answer = Callable[[asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Request:
    """What a receiver got."""

    line: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Receiver:
    """An HTTP/1.1 server that answers as it is told."""

    answer: Answer
    port: int = 0
    connections: int = 0
    requests: list[Request] = field(default_factory=list)

    def url(self, path: str = "/hook", scheme: str = "http") -> str:
        """Where it listens."""
        return f"{scheme}://{LOOPBACK}:{self.port}{path}"

    @asynccontextmanager
    async def listening(self, tls: ssl.SSLContext | None) -> AsyncIterator[None]:
        """Serve while the context lasts."""
        tasks: set[asyncio.Task[None]] = set()

        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self.connections += 1
            tasks.add(asyncio.create_task(self._serve(reader, writer)))

        server = await asyncio.start_server(accept, LOOPBACK, 0, ssl=tls)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield
        finally:
            server.close()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError):
                while not writer.is_closing():
                    head = (await reader.readuntil(b"\r\n\r\n")).decode()
                    line, *fields = head.strip().split("\r\n")
                    headers = {name.lower(): value for name, _, value in (f.partition(": ") for f in fields)}
                    body = await reader.readexactly(int(headers["content-length"]))
                    self.requests.append(Request(line, headers, body))
                    await self.answer(writer)
        finally:
            writer.transport.abort()


async def _accept(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
    await writer.drain()


@pytest.fixture
async def start_receiver() -> AsyncIterator[Callable[..., Awaitable[Receiver]]]:
    """`await start_receiver(answer, tls)` starts a receiver, which says 204 when it is not told what."""
    async with AsyncExitStack() as stack:

        async def start(answer: Answer = _accept, tls: ssl.SSLContext | None = None) -> Receiver:
            receiver = Receiver(answer)
            await stack.enter_async_context(receiver.listening(tls))
            return receiver

        yield start


@pytest.fixture
async def make_sender() -> AsyncIterator[Callable[..., Sender]]:
    """`make_sender(guard, **options)` makes a sender; without a guard it reaches this machine."""
    senders: list[Sender] = []

    def make(guard: ReceiverGuard | None = None, **options: Any) -> Sender:
        senders.append(Sender(guard or ReceiverGuard([LOOPBACK]), **options))
        return senders[-1]

    yield make
    for sender in senders:
        await sender.aclose()


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    """A certificate authority."""
    return trustme.CA()


@pytest.fixture
def tls(authority: trustme.CA) -> ssl.SSLContext:
    """A client's view: trusts the authority and nobody else."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(context)
    return context


@pytest.fixture
def tls_of(authority: trustme.CA) -> Callable[[str], ssl.SSLContext]:
    """`tls_of(name)`: a server's view, with a certificate for the name."""

    def make(name: str) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(name).configure_cert(context)
        return context

    return make
