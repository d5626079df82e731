"""A client of the gateway that does next to nothing while it is measured: it notes what came, and when.

What came is decoded afterwards, and checked: every stream must have all of its tokens, in order, once.
"""

import asyncio
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import httptools

OPENING = 500
"""Connections that are opened at once: each response begins after a second if no token has come by then."""

Pieces = list[tuple[int, bytes]]
"""What came: nanoseconds of the monotonic clock, which all processes share, and bytes."""


class Connection(asyncio.Protocol):
    """One connection, with what came on it."""

    def __init__(self) -> None:
        self.pieces: Pieces = []
        self.begun = asyncio.Event()
        self.lost = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.pieces.append((time.monotonic_ns(), data))
        if len(self.pieces) == 1:
            self.begun.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.begun.set()
        self.lost.set()


def request(url: str, path: str, body: dict[str, Any], *, close: bool) -> bytes:
    """A POST."""
    content = json.dumps(body).encode()
    lines = (
        f"POST {urlsplit(url).path}{path} HTTP/1.1",
        f"host: {urlsplit(url).netloc}",
        "content-type: application/json",
        f"content-length: {len(content)}",
        f"connection: {'close' if close else 'keep-alive'}",
    )
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + content


async def open_streams(url: str, bodies: list[dict[str, Any]]) -> list[Connection]:
    """A streamed chat for each body; returned once all responses have begun."""
    turn, host, loop = asyncio.Semaphore(OPENING), urlsplit(url), asyncio.get_running_loop()

    async def begin(body: dict[str, Any]) -> Connection:
        async with turn:
            _, stream = await loop.create_connection(Connection, host.hostname, host.port)
            stream.transport.write(request(url, "/chat/completions", body, close=True))
            await stream.begun.wait()
            return stream

    return list(await asyncio.gather(*map(begin, bodies)))


async def chats_per_s(url: str, body: dict[str, Any], clients: int, seconds: float) -> float:
    """Whole answers a second that so many clients get, each on a connection of its own, one after the other.

    Raises:
        SystemExit: an answer was none.
    """
    host, content, answered = urlsplit(url), request(url, "/chat/completions", body, close=False), 0
    ends_at = time.monotonic() + seconds

    async def client() -> None:
        nonlocal answered
        reader, writer = await asyncio.open_connection(host.hostname, host.port)
        while time.monotonic() < ends_at:
            writer.write(content)
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            if not head.startswith(b"http/1.1 200"):
                raise SystemExit(f"a chat was answered {head.decode()}")
            length = int(head.partition(b"content-length:")[2].split(b"\r\n")[0])
            await reader.readexactly(length)
            answered += 1
        writer.close()
        await writer.wait_closed()

    started = time.monotonic()
    await asyncio.gather(*(client() for _ in range(clients)))
    return answered / (time.monotonic() - started)


@dataclass(slots=True)
class Stream:
    """What one connection brought.

    Attributes:
        status: of the response.
        events: when each came whole, and its fields.
    """

    status: int = 0
    events: list[tuple[int, dict[str, str]]] = field(default_factory=list)

    @property
    def job_id(self) -> str:
        """The job behind the chat."""
        return str(next(self.objects())[1]["id"]).removeprefix("chatcmpl-")

    def objects(self) -> Iterator[tuple[str | None, dict[str, Any], int]]:
        """The id, object and time of each event but the last, which says that it is done."""
        for at, fields in self.events[:-1]:
            yield fields.get("id"), json.loads(fields["data"]), at


class _Decoder:
    """HTTP's and SSE's framing taken off, piece by piece."""

    def __init__(self) -> None:
        self.stream, self._at, self._rest = Stream(), 0, b""
        self._parser = httptools.HttpResponseParser(self)

    def feed(self, at: int, data: bytes) -> None:
        self._at = at
        self._parser.feed_data(data)

    def on_headers_complete(self) -> None:
        self.stream.status = self._parser.get_status_code()

    def on_body(self, body: bytes) -> None:
        *whole, self._rest = (self._rest + body).split(b"\n\n")
        for text in whole:
            if not text.startswith(b":"):  # a comment
                fields = dict(line.split(": ", 1) for line in text.decode().split("\n"))
                self.stream.events.append((self._at, fields))


def decoded(pieces: Pieces) -> Stream:
    """What came on a connection."""
    decoder = _Decoder()
    for at, data in pieces:
        decoder.feed(at, data)
    return decoder.stream


def chunk_times(stream: Stream, token_ids: list[int]) -> dict[int, int]:
    """When each chunk came, by its offset.

    Raises:
        SystemExit: the stream doesn't have exactly these tokens, in this order, each chunk under its offset.
    """
    if stream.status != 200 or not stream.events or stream.events[-1][1] != {"data": "[DONE]"}:
        raise SystemExit(f"a stream broke: status {stream.status}, {stream.events[-1:]}")
    times: dict[int, int] = {}
    seen: list[int] = []
    for event_id, each, at in stream.objects():
        new = each["choices"][0].get("token_ids") if each["choices"] else None
        if new:
            seen += new
            if event_id != str(len(seen)):
                raise SystemExit(f"an event with the tokens up to {len(seen)} has the id {event_id}")
            times[len(seen)] = at
    if seen != token_ids:
        raise SystemExit(f"a stream has other tokens than its job: {seen}")
    return times
