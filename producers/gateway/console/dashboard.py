"""What open pages show, read from Redis once for all pages of a process, and only while one is open.

It consists of sections. A page gets each section when it opens and whenever it has changed; a slow page skips
what it missed in between.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import structlog

from ....schemas.errors import HeadraceError
from ..errors import refusal_of

EVERY_S = 1.0
"""How often Redis is read."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Source:
    """Where sections come from.

    Attributes:
        name: what is read, for display.
        read: returns sections by name, ready for JSON.
        every: it is read once in this many rounds.
    """

    name: str
    read: Callable[[], Awaitable[Mapping[str, Any]]]
    every: int = 1


class Dashboard:
    """The sections, kept up to date while a page is open.

    Args:
        sources: where they come from. While one fails, its sections don't change, and the section `errors`
            says why.
        once: sections that a page only gets when it opens.
    """

    def __init__(self, sources: Sequence[Source], once: frozenset[str] = frozenset()) -> None:
        self._sources, self._once = sources, once
        self._sections: dict[str, tuple[int, str]] = {}
        self._errors: dict[str, str] = {}
        self._version = self._round = 0
        self._pages: set[asyncio.Event] = set()
        self._soon = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def pages(self) -> int:
        """How many pages are open."""
        return len(self._pages)

    def refresh(self) -> None:
        """Read everything now, because something was changed."""
        self._round = 0
        self._soon.set()

    async def changes(self) -> AsyncGenerator[tuple[str, str]]:
        """Yield the sections as name and JSON: first all, then those that change."""
        news = asyncio.Event()
        if not self._pages:
            self._sections.clear()  # of an earlier page
            self._round = 0
            self._task = asyncio.create_task(self._watch())
        self._pages.add(news)
        seen = 0
        try:
            while True:
                current = self._version
                news.clear()
                for name, (version, body) in list(self._sections.items()):
                    if version > seen and (seen == 0 or name not in self._once):
                        yield name, body
                seen = current if self._sections else 0
                if current == self._version:
                    await news.wait()
        finally:
            self._pages.discard(news)
            if not self._pages and self._task is not None:
                self._task.cancel()
                self._task = None

    async def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            self._soon.clear()
            began = loop.time()
            await self._read()
            took = loop.time() - began
            try:  # a Redis that is slow to answer is asked less often
                async with asyncio.timeout(max(EVERY_S - took, took)):
                    await self._soon.wait()
            except TimeoutError:
                continue

    async def _read(self) -> None:
        due = [source for source in self._sources if self._round % source.every == 0]
        self._round += 1
        for source, reply in zip(due, await asyncio.gather(*map(_one, due)), strict=True):
            if isinstance(reply, Exception):
                self._errors[source.name] = refusal_of(reply).message
            else:
                self._errors.pop(source.name, None)
                self._put(reply)
        self._put({"errors": self._errors})
        newest = max(version for version, _ in self._sections.values())
        if newest > self._version:
            self._version = newest
            for news in self._pages:
                news.set()

    def _put(self, sections: Mapping[str, Any]) -> None:
        for name, value in sections.items():
            body = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
            if self._sections.get(name, (0, ""))[1] != body:
                self._sections[name] = (self._version + 1, body)


async def _one(source: Source) -> Mapping[str, Any] | Exception:
    try:
        return await source.read()
    except HeadraceError as error:
        return error
    except Exception as error:  # a damaged record must not stop the rest of the page from changing
        log.error("console_read_failed", what=source.name, error=type(error).__name__)
        return error
