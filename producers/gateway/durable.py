"""A job's token log as a stream of the Durable Streams protocol, to be read from any offset.

An offset is a place in the log: how often the job has been started over, and how many tokens there were; the
place after the end comes after all of them. Padded with zeros, places sort as strings do. What lies between
two places never changes, since a job that is started over leaves its earlier places behind: they are refused.
"""

import asyncio
import json
import re
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from time import monotonic
from typing import Protocol, Self

from ...schemas.errors import BrokerUnavailable, HeadraceError, JobNotFound, StreamReset
from ...schemas.events import Chunk
from ..async_client import AsyncJobHandle, progress, ready_chunks
from ..progress import JobProgress
from .native_events import NativeEvents
from .stored import UNANSWERED

READ_BYTES = 2**20
"""A read ends with the chunk that makes it this long; the client asks for the rest."""

READ_S = 10.0
"""How long a read may take: what it reads is there already, so this is how long it waits for Redis."""

_OFFSET = re.compile(r"([0-9]{4})_([0-9]{10})(_1)?")


@dataclass(frozen=True, slots=True)
class Offset:
    """A place in a job's token log, written `0000_0000000017`, or `0000_0000000017_1` after the end."""

    restarts: int
    tokens: int
    ended: bool = False

    def __str__(self) -> str:
        return f"{self.restarts:04}_{self.tokens:010}{'_1' if self.ended else ''}"

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """The place that a client names; None if no offset is written like this."""
        match = _OFFSET.fullmatch(text)
        return None if match is None else cls(int(match[1]), int(match[2]), match[3] is not None)


class Form(Protocol):
    """What a stream is made of: pieces of text, which are joined into bodies and events."""

    media_type: str

    def chunk(self, chunk: Chunk, /) -> list[str]:
        """The pieces of a chunk; there may be none."""
        ...

    async def end(self, job: AsyncJobHandle, /) -> list[str]:
        """The pieces after the last chunk of a job that succeeded."""
        ...

    def failed(self, error: HeadraceError, /) -> list[str]:
        """The same for one that didn't."""
        ...

    def join(self, pieces: Sequence[str], /) -> str:
        """A body."""
        ...


class ChunkForm:
    """JSON mode: the events of the job's native stream, the last of which says how it ended."""

    media_type = "application/json"

    def chunk(self, chunk: Chunk) -> list[str]:
        """The chunk."""
        return _encoded(NativeEvents().chunk(chunk))

    async def end(self, job: AsyncJobHandle) -> list[str]:
        """The end."""
        return _encoded(NativeEvents().end(await job.result()))

    def failed(self, error: HeadraceError) -> list[str]:
        """The end of a job that didn't succeed."""
        return _encoded(NativeEvents().failed(error))

    def join(self, pieces: Sequence[str]) -> str:
        """An array."""
        return f"[{','.join(pieces)}]"


def _encoded(events: list[dict[str, object]]) -> list[str]:
    return [json.dumps(each, ensure_ascii=False, separators=(",", ":")) for each in events]


class Text:
    """The generated text and nothing else."""

    media_type = "text/plain; charset=utf-8"

    def chunk(self, chunk: Chunk) -> list[str]:
        """The text that became final."""
        return [chunk.text] if chunk.text else []

    async def end(self, _: AsyncJobHandle) -> list[str]:
        """Nothing."""
        return []

    def failed(self, _: HeadraceError) -> list[str]:
        """Nothing: the job's status says why it ended."""
        return []

    def join(self, pieces: Sequence[str]) -> str:
        """The text."""
        return "".join(pieces)


@dataclass(frozen=True, slots=True)
class Portion:
    """What lies between two places of a stream.

    Attributes:
        pieces: see `Form`.
        at: the place after them.
        up_to_date: whether there was no more at the time.
        closed: whether there will never be more.
    """

    pieces: tuple[str, ...]
    at: Offset
    up_to_date: bool = True
    closed: bool = False


@dataclass(frozen=True, slots=True)
class TokenStream:
    """A job, read in one form."""

    job: AsyncJobHandle
    form: Form

    async def follow(self, start: Offset) -> AsyncGenerator[Portion]:
        """Each chunk from a place on, as it comes, and the end.

        Raises:
            StreamReset: the job has been started over, or its log doesn't come as far.
            HeadraceError: it can't be read.
        """
        at = start
        tail: list[str] = []
        try:
            ready = ready_chunks(self.job, start.tokens, restarts=start.restarts)
            async with aclosing(_each(ready)) as chunks:
                async for chunk in chunks:
                    pieces = self.form.chunk(chunk)
                    if chunk.token_ids:
                        at = replace(at, tokens=chunk.offset)
                        yield Portion(tuple(pieces), at)
                    else:  # it came with the end, and so has no place of its own
                        tail = pieces
            tail += await self.form.end(self.job)
        except UNANSWERED as error:
            tail += self.form.failed(error)
        yield Portion(tuple(tail), replace(at, ended=bool(tail)), closed=True)

    async def live(self, start: Offset, lasts_s: float) -> AsyncGenerator[Portion]:
        """Each chunk from a place on, as it comes, for this long.

        Raises:
            StreamReset, HeadraceError: see `follow`.
        """
        until_s = asyncio.get_running_loop().time() + lasts_s
        async with aclosing(self.follow(start)) as parts:
            while True:
                try:
                    async with asyncio.timeout_at(until_s):
                        part = await anext(parts)
                except (TimeoutError, StopAsyncIteration):
                    return
                yield part

    async def read(self, start: Offset, now: JobProgress) -> Portion:
        """What there is from a place on, without waiting.

        Raises:
            StreamReset: the job has been started over, or its log doesn't come as far.
            HeadraceError: it can't be read.
        """
        if start.restarts != now.restarts or start.tokens > now.offset:
            raise StreamReset(self.job.id, start.tokens, now.offset)
        if now.ended and start == Offset(now.restarts, now.offset, ended=True):
            return Portion((), start, closed=True)
        start = replace(start, ended=False)  # a dead letter may have been requeued
        if not now.ended and start.tokens == now.offset:
            return Portion((), start)
        try:
            async with asyncio.timeout(READ_S):
                return await self._read(start, now)
        except TimeoutError:
            raise BrokerUnavailable(f"Redis: a token log could not be read within {READ_S:g} s") from None

    async def _read(self, start: Offset, now: JobProgress) -> Portion:
        pieces: list[str] = []
        size = 0
        async with aclosing(self.follow(start)) as parts:
            async for part in parts:
                pieces += part.pieces
                size += sum(len(piece.encode()) for piece in part.pieces)
                last = part.closed or (not now.ended and part.at.tokens >= now.offset)
                if last or size >= READ_BYTES:
                    return Portion(tuple(pieces), part.at, up_to_date=last, closed=part.closed)
        raise JobNotFound(self.job.id)  # not reached: what is followed ends with a closed part

    async def tail(self, now: JobProgress) -> Portion:
        """The place after all there is.

        Raises:
            HeadraceError: it can't be read.
        """
        return replace(await self.read(Offset(now.restarts, now.offset), now), pieces=())

    async def wait(self, part: Portion, wait_s: float) -> Portion:
        """What comes after an empty part, or one that is still empty when the time is over.

        Raises:
            StreamReset, HeadraceError: see `read`.
        """
        until_s = monotonic() + wait_s
        while not part.pieces and not part.closed:
            left_s = until_s - monotonic()
            if left_s <= 0 or not await self._news(part.at, left_s):
                break
            # Read again rather than taken from there: more may have come with it.
            part = await self.read(part.at, await progress(self.job))
        return part

    async def _news(self, start: Offset, timeout_s: float) -> bool:
        async with aclosing(self.live(start, timeout_s)) as parts:
            async for part in parts:
                if part.pieces or part.closed:
                    return True
        return False


async def _each(ready: AsyncGenerator[list[Chunk]]) -> AsyncGenerator[Chunk]:
    async with aclosing(ready):
        async for chunks in ready:
            for chunk in chunks:
                yield chunk
