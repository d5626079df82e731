"""HTTP/1.1 with bounds on what one connection may take: time for headers and body, memory, unread answers.

uvicorn bounds none of these: a client that sends its headers byte by byte, or never reads its answer, would
hold a connection and what is buffered for it forever.
"""

import asyncio
import json
from dataclasses import dataclass
from typing import Any

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from .errors import Refusal, body_at

MAX_PIPELINED = 16
"""Maximum number of requests on one connection that wait for the answers before theirs."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """What one connection may take; see `GatewaySettings`."""

    header_bytes: int
    header_s: float
    body_s: float
    write_s: float
    connections: int


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's protocol within `Bounds`."""

    bounds: Bounds

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.url = b""
        self._header_bytes = 0
        self._receiving = False
        self._refused: Refusal | None = None
        self._reading: asyncio.TimerHandle | None = None
        self._writing: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a request."""
        super().connection_made(transport)
        if len(self.connections) > self.bounds.connections:
            self._refuse(Refusal(503, "The gateway has too many connections; try again.", code="overloaded"))
            return
        self._expect(self.bounds.header_s)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the timers."""
        self._expect(None)
        self._unread(None)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse what came, unless the connection was refused."""
        if self._refused is not None:
            return
        if self._reading is None:
            self._expect(self.bounds.header_s)
        # Each piece of a body has a time of its own; the headers have one for all of them, or a client could
        # send them byte by byte forever.
        elif self._receiving:
            self._expect(self.bounds.body_s)
        super().data_received(data)
        if self._header_bytes == 0 and not self._receiving:  # every request in it was whole
            self._expect(None)

    def on_message_begin(self) -> None:
        """A request begins."""
        if len(self.pipeline) >= MAX_PIPELINED:
            # httptools turns what a callback raises into a parse error, which ends in `send_400_response`.
            self._refused = Refusal(400, "Too many requests without waiting for an answer.", code="pipelined")
            raise ValueError
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        """A part of the request's URL."""
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header."""
        self._count(len(name) + len(value))
        super().on_header(name, value)

    def _count(self, size: int) -> None:
        self._header_bytes += size
        if self._header_bytes > self.bounds.header_bytes:
            message = f"The request's headers are larger than {self.bounds.header_bytes} bytes."
            self._refused = Refusal(431, message, code="headers_too_large")
            raise ValueError

    def on_headers_complete(self) -> None:
        """The headers are complete; from now on the body is awaited."""
        self._header_bytes, self._receiving = 0, True
        self._expect(self.bounds.body_s)
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """The body is complete."""
        self._receiving = False
        self._expect(None)
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Refuse what isn't HTTP, or is too much of it."""
        self._refuse(self._refused or Refusal(400, msg, code="invalid_http"))

    def pause_writing(self) -> None:
        """The client reads too slowly for what is sent."""
        super().pause_writing()
        self._unread(self.bounds.write_s)

    def resume_writing(self) -> None:
        """The client has continued reading."""
        super().resume_writing()
        self._unread(None)

    def _refuse(self, refusal: Refusal) -> None:
        self._refused = refusal
        self._expect(None)
        # Never into the middle of an earlier request's answer.
        if self.cycle is None or self.cycle.response_complete:
            body = json.dumps(body_at(self.url.decode("latin-1"), refusal)).encode()
            lines = (
                STATUS_LINE[refusal.status],
                b"content-type: application/json\r\n",
                b"content-length: %d\r\nconnection: close\r\n\r\n" % len(body),
                body,
            )
            self.transport.write(b"".join(lines))
        self.transport.close()

    def _expect(self, seconds: float | None) -> None:
        """Wait this long for what the client has to send next."""
        if self._reading is not None:
            self._reading.cancel()
        self._reading = None if seconds is None else self.loop.call_later(seconds, self._too_slow)

    def _too_slow(self) -> None:
        self._reading = None
        if not self.transport.is_closing():
            self._refuse(Refusal(408, "The request didn't come in time.", code="request_timeout"))

    def _unread(self, seconds: float | None) -> None:
        if self._writing is not None:
            self._writing.cancel()
        # abort: close would wait until the client has read what is buffered.
        self._writing = None if seconds is None else self.loop.call_later(seconds, self.transport.abort)


def bounded(bounds: Bounds) -> type[BoundedProtocol]:
    """The protocol with these bounds."""
    return type("GatewayProtocol", (BoundedProtocol,), {"bounds": bounds})
