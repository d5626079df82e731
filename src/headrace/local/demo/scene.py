"""What the tour shows: the streams, the engines and the queue, as they are now."""

import asyncio
import string
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

STREAM_PROMPTS = (
    "The function sorted",
    "A dictionary is",
    "To open a file,",
    "A generator is",
    "When an exception",
    "The asyncio module",
)
BACKGROUND_PROMPTS = (
    "The with statement is used to",
    "A list comprehension",
    "Return a new string",
    "The import statement",
    "Regular expressions",
)


@dataclass(slots=True, eq=False)
class StreamView:
    """One stream as its reader sees it.

    Attributes:
        pieces: its text, each piece with the offset before it.
        owners: the engines that made it, each with the offset from which it did.
        offset: the last token offset seen.
        breaks: offsets that did not follow on the one before (none lost, none repeated: always 0).
        longest_gap_s: the longest silence between two chunks.
        cut: the offset at which its engine was killed, until another goes on with it.
        resumed: the first token after the kill, once another engine goes on with it.
    """

    prompt: str
    pieces: list[tuple[int, str]] = field(default_factory=list)
    owners: list[tuple[int, str]] = field(default_factory=list)
    offset: int = 0
    breaks: int = 0
    longest_gap_s: float = 0.0
    last_at: float | None = None
    cut: int | None = None
    resumed: int | None = None
    done: bool = False

    def take(self, start: int, offset: int, text: str) -> None:
        """One chunk, covering the tokens after `start` up to `offset`."""
        now = time.monotonic()
        if start != self.offset:
            self.breaks += 1
        if self.last_at is not None:
            self.longest_gap_s = max(self.longest_gap_s, now - self.last_at)
        self.offset, self.last_at = offset, now
        self.pieces.append((start, text))

    def belongs_to(self, engine: str) -> None:
        """It runs on this engine: from now on, or from where it was cut."""
        if self.owners and self.owners[-1][1] == engine:
            return
        if self.cut is None:
            self.owners.append((self.offset, engine))
            return
        self.owners.append((self.cut, engine))
        self.resumed = self.cut + 1
        self.cut = None

    @property
    def owner(self) -> str | None:
        """The engine that has it, or had it last."""
        return self.owners[-1][1] if self.owners else None

    def text_by_owner(self) -> Iterator[tuple[str, str]]:
        """The text, piece by piece, each with the engine that made it."""
        owners = [(0, ""), *self.owners]
        for start, text in list(self.pieces):
            while len(owners) > 1 and owners[1][0] <= start:
                owners.pop(0)
            yield owners[0][1], text


@dataclass(slots=True)
class EngineView:
    """One engine as its last heartbeat says.

    Attributes:
        letter: what it is called on the screen.
        name: its worker id.
    """

    letter: str
    name: str
    pid: int
    pages_total: int
    pages_free: int
    running: int

    @property
    def pages_used(self) -> int:
        """KV pages that jobs hold."""
        return self.pages_total - self.pages_free

    @property
    def used(self) -> float:
        """The share of KV pages in use."""
        return self.pages_used / self.pages_total if self.pages_total else 0.0


@dataclass(slots=True)
class Scene:
    """Everything on the screen.

    Attributes:
        places: how many engines there are to be.
        engines: those that live, and the one that was killed until another is in its place; by letter.
        killed: the one that was killed.
        letters: of the engines seen so far, by worker id.
        events: what happened, newest last, each with the style that it is shown in.
        note: what to know meanwhile.
        queued: jobs waiting.
        finished: jobs done.
        moved: set whenever a stream has new tokens.
    """

    streams: list[StreamView]
    total_jobs: int
    places: int = 2
    killed: EngineView | None = None
    engines: list[EngineView] = field(default_factory=list)
    letters: dict[str, str] = field(default_factory=dict)
    events: list[tuple[str, str]] = field(default_factory=list)
    note: str = ""
    queued: int = 0
    finished: int = 0
    clock: Callable[[], float] = time.monotonic
    started_at: float = field(default_factory=time.monotonic)
    moved: asyncio.Event = field(default_factory=asyncio.Event)

    async def next_move(self) -> None:
        """Wait until a stream has new tokens or has ended."""
        self.moved.clear()
        await self.moved.wait()

    def see(self, alive: list[EngineView]) -> None:
        """These engines have been heard of."""
        lost = self.killed
        engines = [engine for engine in alive if lost is None or engine.name != lost.name]
        if lost is not None and len(engines) < self.places:
            engines.append(lost)
        self.engines = sorted(engines, key=lambda engine: engine.letter)

    def restart(self) -> None:
        """The time that is shown begins now."""
        self.started_at = self.clock()

    def letter(self, worker_id: str) -> str:
        """What the engine is called on the screen."""
        return self.letters.setdefault(worker_id, string.ascii_uppercase[len(self.letters) % 26])

    @property
    def elapsed_s(self) -> float:
        """Seconds since the first job was enqueued; before that, since the start."""
        return self.clock() - self.started_at

    @property
    def ended(self) -> bool:
        """Whether no stream has more to come."""
        return all(stream.done for stream in self.streams)
