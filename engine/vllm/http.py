"""Calls of a vLLM server's routes, over TCP or a Unix socket."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpcore

from .errors import Interrupted, ServerRefused

CALL_S = 10.0
"""How long the server may take for an answer that isn't generated."""

CONNECT_S = 5.0

MOST_BYTES = 64 << 20
"""The longest answer that is read; prompt log-probabilities of a whole context are some megabytes."""

MOST_MESSAGE = 500
"""How much of the server's error messages is repeated."""

GONE = (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException)
"""Errors of the connection, as against answers."""


@dataclass(slots=True, frozen=True)
class ServerAddress:
    """Where a server listens.

    Attributes:
        url: `http://host:port`, without a path at the end.
        socket: the Unix socket to connect to instead.
    """

    url: str
    socket: str | None = None

    def __str__(self) -> str:
        return self.socket or self.url


class ServerRoutes:
    """One server's routes. It belongs to one event loop."""

    def __init__(self, address: ServerAddress, *, key: str | None = None) -> None:
        """Make no connection yet.

        Args:
            address: where it listens.
            key: its API key.
        """
        self._address = address
        # As many connections as there are answers; the engine bounds those.
        self._pool = httpcore.AsyncConnectionPool(
            max_connections=None, max_keepalive_connections=32, keepalive_expiry=4.0, uds=address.socket
        )
        self._headers = [("accept", "*/*"), *([("authorization", f"Bearer {key}")] if key else [])]

    async def close(self) -> None:
        """Close all connections."""
        await self._pool.aclose()

    async def call(self, path: str, body: dict[str, Any] | None = None, *, within_s: float = CALL_S) -> bytes:
        """GET a route, or POST JSON to it; return the whole answer.

        Raises:
            ServerRefused: the status is an error.
            Interrupted: the server can't be reached, or doesn't answer in time.
        """
        try:
            async with asyncio.timeout(within_s), self._answer(path, body, read_s=within_s) as response:
                return await _whole(response)
        except TimeoutError:
            raise Interrupted(f"no whole answer within {within_s:g} s") from None

    @asynccontextmanager
    async def events(
        self, path: str, body: dict[str, Any], request_id: str
    ) -> AsyncIterator[AsyncIterator[dict[str, Any]]]:
        """POST JSON and read the events of the answer, until the last. Leaving closes the connection.

        Raises:
            ServerRefused: the status is an error, or so is an event.
            Interrupted: the server can't be reached, is overloaded, or the answer broke off.
        """
        async with self._answer(path, body, read_s=None, extra=[("x-request-id", request_id)]) as response:
            yield _events(response)

    @asynccontextmanager
    async def _answer(
        self,
        path: str,
        body: dict[str, Any] | None,
        *,
        read_s: float | None,
        extra: list[tuple[str, str]] | None = None,
    ) -> AsyncIterator[httpcore.Response]:
        content = None if body is None else json.dumps(body, separators=(",", ":")).encode()
        kind = [("content-type", "application/json")] if content is not None else []
        try:
            async with self._pool.stream(
                "GET" if content is None else "POST",
                self._address.url + path,
                headers=[*self._headers, *kind, *(extra or [])],
                content=content,
                extensions={"timeout": {"connect": CONNECT_S, "read": read_s, "write": CALL_S}},
            ) as response:
                if response.status >= 400:
                    raise _refusal(response.status, await _reason(response))
                yield response
        except GONE as error:
            raise Interrupted(
                f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            ) from error


async def _whole(response: httpcore.Response) -> bytes:
    parts, size = [], 0
    async for part in response.aiter_stream():
        size += len(part)
        if size > MOST_BYTES:
            raise Interrupted(f"an answer has more than {MOST_BYTES} bytes")
        parts.append(part)
    return b"".join(parts)


async def _reason(response: httpcore.Response) -> bytes:
    """An error's body, nothing if it doesn't come."""
    try:
        async with asyncio.timeout(CALL_S):
            return await _whole(response)
    except TimeoutError:
        return b""


async def _events(response: httpcore.Response) -> AsyncIterator[dict[str, Any]]:
    rest = bytearray()
    async for part in response.aiter_stream():
        rest += part
        if b"\n" not in part:
            if len(rest) > MOST_BYTES:
                raise Interrupted(f"an event has more than {MOST_BYTES} bytes")
            continue
        *lines, last = bytes(rest).split(b"\n")
        rest = bytearray(last)
        for line in lines:
            if not line.startswith(b"data:"):
                continue
            data = line[5:].strip()
            if data == b"[DONE]":
                return
            yield _event(data)
    raise Interrupted("the answer broke off")


def _event(data: bytes) -> dict[str, Any]:
    try:
        event = json.loads(data)
    except (ValueError, RecursionError):
        raise Interrupted(f"an event is not JSON: {data[:100]!r}") from None
    if not isinstance(event, dict):
        raise Interrupted(f"an event is not an object: {data[:100]!r}")
    if "error" in event:
        error = event["error"]
        status = error.get("code") if isinstance(error, dict) else None
        raise _refusal(status if isinstance(status, int) else 500, data)
    return event


def _refusal(status: int, content: bytes) -> Exception:
    """What an error's status means: overload and the server's own failures may pass, the rest doesn't."""
    message = message_of(content)
    if status >= 500 or status in {408, 425, 429}:
        return Interrupted(f"status {status}: {message}")
    return ServerRefused(status, message)


def message_of(content: bytes) -> str:
    """The sentence in an error's body, or its beginning."""
    try:
        error = json.loads(content)["error"]
        text = error["message"] if isinstance(error, dict) else str(error)
    except (ValueError, KeyError, TypeError, RecursionError):
        text = content[: 4 * MOST_MESSAGE].decode(errors="replace")
    return " ".join(str(text).split())[:MOST_MESSAGE] or "no reason given"
