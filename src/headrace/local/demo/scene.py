"""What the tour shows: the current state of the streams, the engines and the queue."""

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
OVER_HTTP = 1
"""Which stream is read over HTTP if there is a gateway: one that the smallest screens show."""

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
        owners: the engines that made it, each with the offset at which it started.
        offset: the last token offset seen.
        breaks: number of offsets that didn't follow the one before (0, because no token is lost or repeated).
        longest_gap_s: the longest silence between two chunks.
        cut: the offset at which its engine was killed, until another one continues it.
        resumed: the first token after the kill, once another engine has continued it.
        over_http: whether it is read at a gateway.
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
    over_http: bool = False

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
        """Note that it runs on this engine: from now on, or from where it was cut."""
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
        """The engine that runs it or ran it last."""
        return self.owners[-1][1] if self.owners else None

    def text_by_owner(self) -> Iterator[tuple[str, str]]:
        """The pieces of the text, each with the engine that made it."""
        owners = [(0, ""), *self.owners]
        for start, text in list(self.pieces):
            # Both lists are in order of offsets, so one pass over the owners serves all pieces.
            while len(owners) > 1 and owners[1][0] <= start:
                owners.pop(0)
            yield owners[0][1], text


@dataclass(slots=True)
class EngineView:
    """One engine, as reported by its last heartbeat.

    Attributes:
        letter: its name on the screen.
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
        """Number of KV pages that jobs hold."""
        return self.pages_total - self.pages_free

    @property
    def used(self) -> float:
        """The share of KV pages in use."""
        return self.pages_used / self.pages_total if self.pages_total else 0.0


@dataclass(slots=True)
class Scene:
    """Everything on the screen.

    Attributes:
        places: how many engines there should be.
        engines: the live ones, and the killed one until another has taken its place; by letter.
        killed: the engine that was killed.
        settled: whether another engine has continued its streams, and there was time to see it.
        announced: whether the engine that replaces it has been announced.
        letters: the letters of the engines seen so far, by worker id.
        events: what has happened, newest last, each with the style that it is shown in.
        note: a remark to show meanwhile.
        queued: jobs waiting.
        finished: jobs that have ended.
        moved: set whenever a stream has new tokens.
    """

    streams: list[StreamView]
    total_jobs: int
    places: int = 2
    killed: EngineView | None = None
    settled: bool = False
    announced: bool = False
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
        """Note that these engines have been heard from."""
        lost = self.killed
        engines = [engine for engine in alive if lost is None or engine.name != lost.name]
        if lost is not None and len(engines) < self.places:
            engines.append(lost)
        self.engines = sorted(engines, key=lambda engine: engine.letter)

    def newcomer(self) -> EngineView | None:
        """Return the engine that replaces the killed one, once, and not before `settled`.

        A small screen shows two events: the death of an engine, and that its streams have resumed.
        """
        if self.killed is None or not self.settled or self.announced or self.killed in self.engines:
            return None
        self.announced = True
        return self.engines[-1]

    def restart(self) -> None:
        """Start the clock that is shown."""
        self.started_at = self.clock()

    def letter(self, worker_id: str) -> str:
        """The engine's name on the screen."""
        return self.letters.setdefault(worker_id, string.ascii_uppercase[len(self.letters) % 26])

    @property
    def elapsed_s(self) -> float:
        """Seconds since the first job was enqueued; before that, since the start."""
        return self.clock() - self.started_at

    @property
    def ended(self) -> bool:
        """Whether all streams have ended."""
        return all(stream.done for stream in self.streams)
