"""Receivers of webhooks: one that answers at once, and one that never does, at hundreds of origins."""

import asyncio
import json
import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Self


class Receivers:
    """Both; an async context manager.

    Attributes:
        url: of the one that answers.
        hanging: URLs of the one that does not, each of another origin.
        heard: when each (job, event) arrived first, in seconds since the epoch.
    """

    def __init__(self, origins: int) -> None:
        self.heard: dict[tuple[str, str], float] = {}
        self._here = socket.create_server(("127.0.0.1", 0), backlog=512)
        self._hanging = [socket.create_server(("127.0.0.1", 0), backlog=16) for _ in range(origins)]
        self.url = _url(self._here)
        self.hanging: Sequence[str] = [_url(each) for each in self._hanging]
        self._servers: list[asyncio.Server] = []
        self._held: set[asyncio.StreamWriter] = set()

    async def __aenter__(self) -> Self:
        self._servers = [await asyncio.start_server(self._answer, sock=self._here)]
        self._servers += [await asyncio.start_server(self._hold, sock=each) for each in self._hanging]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._servers[0].close()
        self.let_go()

    def let_go(self) -> None:
        """The hanging one is there no more."""
        for server in self._servers[1:]:
            server.close()
        for writer in self._held:
            writer.close()
        self._held.clear()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            size = int(head.partition("content-length:")[2].partition("\r\n")[0])
            event = json.loads(await reader.readexactly(size))
            self.heard.setdefault((event["data"]["job_id"], event["type"]), time.time())
            writer.write(b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n")
            await writer.drain()
        writer.close()

    async def _hold(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._held.add(writer)
        with suppress(ConnectionError):
            await reader.read()
        self._held.discard(writer)
        writer.close()


def _url(listener: socket.socket) -> str:
    return f"http://127.0.0.1:{listener.getsockname()[1]}/hook"
