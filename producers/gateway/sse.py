"""Server-sent events that a client can resume, and that no client can make pile up.

Events that are ready together are written together, a few dozen at most, and once the connection has taken
those before: what a slow client hasn't read waits in Redis. A silent stream carries comments. A response ends
when its events do, when the client is gone, or when the gateway stops; in the last case with a comment, and
the client continues at another gateway.
"""

import asyncio
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import Self, TypeVar

from pydantic_core import to_json
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from ...schemas.errors import HeadraceError
from .errors import Refusal
from .state import Gateway

HOLD_S = 1.0
"""How long a stream's status waits for its first event: a job that fails at once is then an HTTP error."""

PING = b": still here\n\n"
STOPPED = b": the gateway is stopping; continue with Last-Event-ID\n\n"

Events = AsyncGenerator[bytes]
"""Whole events, encoded by `event`; those that are ready together may come together."""

MOST_AT_ONCE = 32
"""Events in one write, so that what a slow client hasn't read stays small: logprobs make some kB of each."""

T = TypeVar("T")

_PLACE = re.compile(r"(\d{1,9})(?:-(\d{1,4}))?")


def event(data: str, *, event_id: object = None, name: str | None = None) -> bytes:
    """One event; `data` has no line breaks."""
    return _framed(data.encode(), event_id, name)


def json_event(body: object, *, event_id: object = None, name: str | None = None) -> bytes:
    """One event whose data is JSON."""
    return _framed(to_json(body), event_id, name)


def together(ready: Sequence[bytes]) -> list[bytes]:
    """Events that are ready, as few writes."""
    return [b"".join(ready[at : at + MOST_AT_ONCE]) for at in range(0, len(ready), MOST_AT_ONCE)]


def portions(ready: Iterable[T]) -> Iterator[list[T]]:
    """What is ready, a write's worth at a time, so that no more is encoded before a slow client takes it."""
    rest = iter(ready)
    while portion := list(islice(rest, MOST_AT_ONCE)):
        yield portion


def _framed(data: bytes, event_id: object, name: str | None) -> bytes:
    head = "" if event_id is None else f"id: {event_id}\n"
    if name is not None:
        head += f"event: {name}\n"
    return b"%sdata: %s\n\n" % (head.encode(), data)


@dataclass(frozen=True, slots=True, order=True)
class StreamPlace:
    """How far a reader has come: the number of tokens, then of events after the last token.

    As an event's id it is written `17`, or `17-1` after the last token.
    """

    tokens: int
    tail: int = 0

    def __str__(self) -> str:
        return f"{self.tokens}-{self.tail}" if self.tail else str(self.tokens)

    @classmethod
    def of(cls, request: Request) -> Self | None:
        """The place that the request's `Last-Event-ID` names; None if it has none.

        Raises:
            Refusal: it isn't the id of such an event.
        """
        given = request.headers.get("last-event-id")
        if given is None:
            return None
        match = _PLACE.fullmatch(given)
        if match is None:
            message = "Last-Event-ID: must be the id of an event of this stream, such as 17."
            raise Refusal(400, message, code="invalid_last_event_id", param="Last-Event-ID")
        return cls(int(match[1]), int(match[2] or 0))


class EventStream(Response):
    """A response of server-sent events.

    Args:
        events: the events; they may raise a `HeadraceError` before the first, and nothing after it.
        gone: what to do when the client goes away before the end.
        cut: what to send last if the gateway stops.
        late: what to send for an error before the first event, if the status has been sent by then.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        gateway: Gateway,
        events: Events,
        gone: Callable[[], Awaitable[object]] | None = None,
        cut: bytes = STOPPED,
        *,
        late: Callable[[HeadraceError], bytes] | None = None,
    ) -> None:
        super().__init__(headers={"x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._gateway, self._events, self._gone, self._cut, self._late = gateway, events, gone, cut, late
        self._first: asyncio.Task[bytes] | None = None
        self._sending = self._fresh = False
        self._pump: asyncio.Task[None] | None = None
        self._stopped = False

    async def begin(self) -> Self:
        """Wait a moment for the first event, so that its error becomes an error of the request.

        Raises:
            Exception: raised by the events instead of a first one.
        """
        self._first = asyncio.ensure_future(anext(self._events))
        try:
            await asyncio.wait({self._first}, timeout=HOLD_S)
        except asyncio.CancelledError:
            self._first.cancel()
            raise
        error = self._first.exception() if self._first.done() else None
        if error is not None and not isinstance(error, StopAsyncIteration):  # which ends an empty stream
            await self._events.aclose()
            raise error
        return self

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events."""
        gateway = self._gateway
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        self._pump = asyncio.create_task(self._send_events(send))
        watch = asyncio.create_task(self._watch(receive, send))
        gateway.streams.add(self)
        gateway.metrics.streams.inc()
        if gateway.stopping.is_set():
            self.stop()
        try:
            await asyncio.wait({self._pump, watch}, return_when=asyncio.FIRST_COMPLETED)
            if not self._pump.done():
                gateway.metrics.disconnects.inc()
                await self._leave()
        finally:
            gateway.streams.discard(self)
            gateway.metrics.streams.dec()
            await _end(watch)
            await _end(self._pump)
            await self._close()
        if self._stopped:
            await send({"type": "http.response.body", "body": self._cut, "more_body": False})

    def stop(self) -> None:
        """End with a comment."""
        self._stopped = True
        if self._pump is not None:
            self._pump.cancel()

    async def _send_events(self, send: Send) -> None:
        async def put(data: bytes, *, more: bool = True) -> None:
            self._sending = True
            await send({"type": "http.response.body", "body": data, "more_body": more})
            self._sending, self._fresh = False, True
            self._gateway.metrics.events.inc(data.count(b"\n\n"))

        if self._first is not None:
            try:
                await put(await self._first)
            except StopAsyncIteration:
                pass
            except HeadraceError as error:
                if self._late is None:
                    raise
                await put(self._late(error))
        async for data in self._events:
            await put(data)
        await put(b"", more=False)

    async def _watch(self, receive: Receive, send: Send) -> None:
        """Return when the client is gone; until then, break silences."""
        while True:
            try:
                async with asyncio.timeout(self._gateway.settings.gateway_ping_s):
                    message = await receive()
            except TimeoutError:
                if not self._sending and not self._fresh:
                    await send({"type": "http.response.body", "body": PING, "more_body": True})
                self._fresh = False
            else:
                if message["type"] == "http.disconnect":
                    return

    async def _leave(self) -> None:
        if self._gone is not None:
            await self._gone()

    async def _close(self) -> None:
        if self._first is not None:
            await _end(self._first)
        await self._events.aclose()


async def _end(task: asyncio.Task[object]) -> None:
    """Cancel a task and wait for its end; raise its error, unless it was cancelled."""
    task.cancel()
    with suppress(asyncio.CancelledError, StopAsyncIteration):
        await task
