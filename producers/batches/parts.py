"""A batch's answers on their way into its files: gathered into parts, each counted once.

A part is at most two objects in the file store (answers and errors), and then one field in Redis that says
which lines it answers. The field makes the part valid, and only the runner that holds the lease can write it.
So a runner may die at any moment: its unfinished part doesn't count, its lines are still unanswered, and the
next runner finds their jobs again. At the end the parts are joined.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from ...schemas.scripts.advance_batch import BatchPart
from ..files.blobs import Blobs

PART_LINES = 500
PART_BYTES = 4 * 2**20
"""A part is written when it has this much, or is this old:"""

FIRST_S = 1.0
SLOWER_S = 0.05
"""Seconds that answers wait for others, and by how many more after each part, so that a slow batch has no
more than a few thousand parts."""


@dataclass(slots=True)
class LineAnswer:
    """A line's answer.

    Attributes:
        line: the line's number.
        body: the line of the output, or of the error file.
    """

    line: int
    body: dict[str, Any]
    input_tokens: int = 0
    output_tokens: int = 0

    @property
    def failed(self) -> bool:
        """Whether it goes to the error file."""
        response = self.body["response"]
        return response is None or response["status_code"] != 200


@dataclass(slots=True)
class _Gathered:
    lines: list[int] = field(default_factory=list)
    outputs: list[bytes] = field(default_factory=list)
    errors: list[bytes] = field(default_factory=list)
    size: int = 0
    input_tokens: int = 0
    output_tokens: int = 0

    def take(self, answer: LineAnswer) -> None:
        text = json.dumps(answer.body).encode() + b"\n"
        (self.errors if answer.failed else self.outputs).append(text)
        self.lines.append(answer.line)
        self.size += len(text)
        self.input_tokens += answer.input_tokens
        self.output_tokens += answer.output_tokens


@dataclass(frozen=True, slots=True)
class AnswerPart:
    """A part that counts."""

    name: str
    number: int
    outputs: int
    errors: int
    lines: str

    @classmethod
    def parsed(cls, name: str, text: str) -> "AnswerPart":
        """A part as it is stored in Redis."""
        return cls(name, **json.loads(text))


class Parts:
    """The parts of one batch, written by one runner.

    Args:
        folder: where the objects go.
        writer: a name that no other runner uses.
        known: the parts that count already.
        note: makes a part count; raises if it can't.
    """

    def __init__(
        self,
        blobs: Blobs,
        folder: str,
        writer: str,
        known: Iterable[AnswerPart],
        note: Callable[[BatchPart], Awaitable[None]],
    ) -> None:
        self._blobs, self._folder, self._writer, self._note = blobs, folder, writer, note
        self._known = sorted(known, key=lambda part: (part.number, part.name))
        self._gathered = _Gathered()
        self._closed = asyncio.Event()
        self._lock = asyncio.Lock()  # while a part is written, answers wait: memory stays bounded

    def answered(self) -> set[int]:
        """The numbers of all lines that have an answer."""
        return {line for part in self._known for line in spread(part.lines)}

    async def add(self, answer: LineAnswer) -> None:
        """Take an answer; it counts after the next `flush`, which happens by itself when there are many."""
        async with self._lock:
            self._gathered.take(answer)
            if len(self._gathered.lines) >= PART_LINES or self._gathered.size >= PART_BYTES:
                await self._write()

    async def flush(self) -> None:
        """Make all answers count that were taken."""
        async with self._lock:
            if self._gathered.lines:
                await self._write()

    async def keep_flushing(self) -> None:
        """Flush now and then, until `close`."""
        while not self._closed.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(FIRST_S + SLOWER_S * len(self._known)):
                    await self._closed.wait()
            await self.flush()

    def close(self) -> None:
        """Note that no more answers come; `keep_flushing` ends with a last flush."""
        self._closed.set()

    async def _write(self) -> None:
        # The objects first, then the field. A kill in between leaves objects that nothing names, which go
        # with the folder at the end of the batch.
        gathered, self._gathered = self._gathered, _Gathered()
        number = len(self._known)
        part = AnswerPart(
            # With the writer's name: a runner that has lost its lease, and doesn't know it yet, must not
            # overwrite the part of the same number that its successor writes.
            name=f"{number:06}-{self._writer}",
            number=number,
            outputs=len(gathered.outputs),
            errors=len(gathered.errors),
            lines=ranges(gathered.lines),
        )
        for kind, lines in (("outputs", gathered.outputs), ("errors", gathered.errors)):
            if lines:
                await self._blobs.write(self._path(part, kind), _pieces(lines))
        known = {name: getattr(part, name) for name in ("number", "outputs", "errors", "lines")}
        await self._note(
            BatchPart(
                part.name,
                json.dumps(known),
                part.outputs,
                part.errors,
                gathered.input_tokens,
                gathered.output_tokens,
            )
        )
        self._known.append(part)

    def _path(self, part: AnswerPart, kind: str) -> str:
        return f"{self._folder}/{part.name}.{kind}"

    def has(self, kind: str) -> bool:
        """Whether there are any lines of a kind: `outputs` or `errors`."""
        return any(getattr(part, kind) for part in self._known)

    async def joined(self, kind: str) -> AsyncIterator[bytes]:
        """Yield all parts' lines of a kind.

        Raises:
            FileNotFoundError: a part is gone.
        """
        for part in self._known:
            if getattr(part, kind):
                async for piece in self._blobs.read(self._path(part, kind)):
                    yield piece


def ranges(numbers: Iterable[int]) -> str:
    """Line numbers as text: `1-5,9`."""
    spans: list[list[int]] = []
    for number in sorted(numbers):
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return ",".join(f"{first}-{last}" if last > first else f"{first}" for first, last in spans)


def spread(text: str) -> Iterable[int]:
    """The numbers in such a text."""
    for span in filter(None, text.split(",")):
        first, _, last = span.partition("-")
        yield from range(int(first), int(last or first) + 1)


async def _pieces(lines: list[bytes]) -> AsyncIterator[bytes]:
    for line in lines:
        yield line
