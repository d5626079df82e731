"""What the tour shows: the streams, the engines and the queue, as they are now."""

import asyncio
import time
from dataclasses import dataclass, field

STREAM_PROMPTS = (
    "The built-in function sorted",
    "A dictionary is",
    "To open a file,",
    "A generator is a function that",
    "When an exception is raised,",
    "The asyncio module",
)
BACKGROUND_PROMPTS = (
    "The with statement is used to",
    "A list comprehension",
    "Return a new string",
    "The import statement",
    "Regular expressions",
)


@dataclass(slots=True)
class StreamView:
    """One stream as its reader sees it.

    Attributes:
        offset: the last token offset seen.
        breaks: offsets that did not follow on the one before (none lost, none repeated: always 0).
        longest_gap_s: the longest silence between two chunks.
    """

    prompt: str
    text: str = ""
    offset: int = 0
    breaks: int = 0
    longest_gap_s: float = 0.0
    last_at: float | None = None
    done: bool = False

    def take(self, start: int, offset: int, text: str) -> None:
        """One chunk, covering the tokens after `start` up to `offset`."""
        now = time.monotonic()
        if start != self.offset:
            self.breaks += 1
        if self.last_at is not None:
            self.longest_gap_s = max(self.longest_gap_s, now - self.last_at)
        self.offset, self.last_at = offset, now
        self.text += text


@dataclass(slots=True)
class EngineView:
    """One engine as its last heartbeat says."""

    name: str
    pid: int
    pages_total: int
    pages_free: int
    running: int

    @property
    def used(self) -> float:
        """The share of KV pages in use."""
        return 1 - self.pages_free / self.pages_total if self.pages_total else 0.0


@dataclass(slots=True)
class Scene:
    """Everything on the screen.

    Attributes:
        events: what happened, newest last.
        queued: jobs waiting.
        finished: jobs done.
        moved: set whenever a stream has new tokens.
    """

    streams: list[StreamView]
    total_jobs: int
    engines: list[EngineView] = field(default_factory=list)
    events: list[str] = field(default_factory=list)
    queued: int = 0
    finished: int = 0
    tokens: int = 0
    started_at: float = field(default_factory=time.monotonic)
    moved: asyncio.Event = field(default_factory=asyncio.Event)

    async def all_at(self, offset: int) -> None:
        """Wait until every stream has shown this many tokens."""
        while min(stream.offset for stream in self.streams) < offset:
            self.moved.clear()
            await self.moved.wait()

    @property
    def elapsed_s(self) -> float:
        """Seconds since the first job was enqueued."""
        return time.monotonic() - self.started_at
