"""The scene on a terminal (a live screen) or anywhere else (plain lines)."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.columns import Columns
from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from .scene import Scene, StreamView

_SHOWN_CHARS = 240


class Screen(Protocol):
    """Where the tour is shown."""

    def say(self, line: str) -> None:
        """Something happened."""

    def draw(self, scene: Scene) -> None:
        """The scene has changed."""

    def table(self, title: str, rows: list[tuple[str, str]]) -> None:
        """Facts at the end."""


class PlainScreen:
    """Plain lines, for logs and pipes: what happened, and now and then how far everything is."""

    def __init__(self) -> None:
        self._last = 0.0

    def say(self, line: str) -> None:
        """Something happened."""
        print(line, flush=True)

    def draw(self, scene: Scene) -> None:
        """A line of progress, at most one a second."""
        if scene.elapsed_s - self._last < 1.0:
            return
        self._last = scene.elapsed_s
        pages = " ".join(f"{engine.used:4.0%}" for engine in scene.engines)
        offsets = " ".join(str(stream.offset) for stream in scene.streams)
        self.say(
            f"{scene.elapsed_s:5.1f} s  done {scene.finished}/{scene.total_jobs}  queued {scene.queued}  "
            f"KV pages {pages}  stream offsets {offsets}"
        )

    def table(self, title: str, rows: list[tuple[str, str]]) -> None:
        """One fact a line."""
        self.say(f"\n{title}")
        for name, value in rows:
            self.say(f"  {name:<34} {value}")


class LiveScreen:
    """Panels that redraw in place."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self.live = Live(console=console, refresh_per_second=12, transient=True)

    def say(self, line: str) -> None:
        """Something happened."""
        self._console.print(line)

    def draw(self, scene: Scene) -> None:
        """Redraw everything."""
        streams = Columns([_stream_panel(stream) for stream in scene.streams], equal=True, expand=True)
        self.live.update(Group(streams, _engines_panel(scene), *(_event(line) for line in scene.events[-4:])))

    def table(self, title: str, rows: list[tuple[str, str]]) -> None:
        """A table of facts."""
        table = Table(title=title, show_header=False, title_justify="left", title_style="bold")
        for name, value in rows:
            table.add_row(name, value)
        self._console.print(table)


def _event(line: str) -> Text:
    return Text(line, style="bold yellow")


def _stream_panel(stream: StreamView) -> Panel:
    text = stream.text[-_SHOWN_CHARS:].replace("\n", " ")
    body = Text.assemble((f"{stream.prompt} ", "bold"), text)
    state = "done" if stream.done else f"token {stream.offset}"
    return Panel(body, subtitle=state, height=8, border_style="green" if stream.done else "cyan")


def _engines_panel(scene: Scene) -> Panel:
    grid = Table.grid(padding=(0, 1))
    for engine in scene.engines:
        pages = engine.pages_total - engine.pages_free
        grid.add_row(
            engine.name, _bar(engine.pages_total, pages), f"{pages} KV pages", f"{engine.running} jobs"
        )
    grid.add_row("queue", _bar(scene.total_jobs, scene.queued), f"{scene.queued} waiting", "")
    rate = scene.tokens / scene.elapsed_s if scene.elapsed_s else 0.0
    done = f"{scene.finished}/{scene.total_jobs} jobs done, {rate:,.0f} tokens/s"
    return Panel(grid, title="engines", subtitle=done)


def _bar(total: int, completed: int) -> ProgressBar:
    return ProgressBar(total=total or 1, completed=completed, width=40)


@contextmanager
def screen() -> Iterator[Screen]:
    """A live screen on a terminal, else plain lines."""
    console = Console()
    if not (console.is_terminal and sys.stdout.isatty()):
        yield PlainScreen()
        return
    live = LiveScreen(console)
    with live.live:
        yield live
