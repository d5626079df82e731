"""A stream that is read over HTTP: at one gateway, and once that is gone at the next (`Last-Event-ID`)."""

import asyncio
import json
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field

import httpcore

from ...schemas.errors import DemoFailed
from ...schemas.events import Chunk
from .scene import StreamView

_AGAIN_S = 0.05
_GONE = (httpcore.NetworkError, httpcore.ProtocolError)


@dataclass(slots=True)
class HttpStream:
    """How far the reader of one job's stream has come, and where it reads.

    Attributes:
        view: what is shown of it.
        gateways: base URLs of the gateways, the one that is read from first.
        kill: kills the gateway at this URL (`kill -9`) and returns its process id.
        token_ids: all tokens that have come.
        killed: the gateway that was killed while the stream was read from it.
        resumed: the first token that came from another one.
    """

    view: StreamView
    gateways: deque[str]
    kill: Callable[[str], int]
    token_ids: list[int] = field(default_factory=list)
    killed: str | None = None
    resumed: int | None = None

    def kill_gateway(self) -> int | None:
        """Kill the gateway that it is read from, once, and in the middle of the stream; else return None."""
        if self.killed is not None or self.view.done or not self.token_ids:
            return None
        self.killed = self.gateways[0]
        return self.kill(self.killed)

    async def read(self, job_id: str) -> AsyncIterator[Chunk]:
        """Yield the stream's chunks, at as many gateways as it takes.

        Raises:
            DemoFailed: a gateway answered with an error.
        """
        async with httpcore.AsyncConnectionPool() as pool:
            while True:
                try:
                    async with aclosing(self._events(pool, job_id)) as events:
                        async for kind, data in events:
                            if kind == "end":
                                return
                            yield self._taken(kind, data)
                except _GONE:
                    pass
                self.gateways.rotate(-1)
                await asyncio.sleep(_AGAIN_S)

    def _taken(self, kind: str, data: str) -> Chunk:
        if kind != "chunk":
            raise DemoFailed(f"{self.gateways[0]}: {json.loads(data)['error']['message']}")
        chunk = Chunk.model_validate_json(data)
        self.token_ids += chunk.token_ids
        if self.resumed is None and self.killed not in {None, self.gateways[0]}:
            self.resumed = chunk.start + 1
            if self.view.cut is None and self.view.resumed is None:  # its engine lives
                self.view.resumed = self.resumed
        return chunk

    async def _events(
        self, pool: httpcore.AsyncConnectionPool, job_id: str
    ) -> AsyncGenerator[tuple[str, str]]:
        """The events that a gateway sends after the last token that has come: their names and data."""
        url = f"{self.gateways[0]}/jobs/{job_id}/stream"
        place = [("last-event-id", str(len(self.token_ids)))] if self.token_ids else []
        async with pool.stream("GET", url, headers=place) as answer:
            if answer.status != 200:
                raise DemoFailed(f"{url} answered {answer.status}: {(await answer.aread())[:200]!r}")
            unread = b""
            async for part in answer.aiter_stream():
                *whole, unread = (unread + part).split(b"\n\n")
                for event in whole:
                    fields = dict(line.split(": ", 1) for line in event.decode().splitlines())
                    if "data" in fields:  # anything else is a comment
                        yield fields["event"], fields["data"]
