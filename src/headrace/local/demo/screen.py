"""The scene on a terminal (a live screen) or anywhere else (plain lines)."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.live import Live
from rich.table import Table

from .layout import frame
from .pace import QUICK, WATCHED, Pace
from .scene import Scene

Rows = list[tuple[str, str]]

_FRAMES_PER_S = 10
_LEAST_WIDTH = 60
"""Least width of a terminal that the facts fit on."""

_BORDERS = 7
"""Characters that the borders of a table with two columns take."""


class Screen(Protocol):
    """Where the tour is shown, and how fast it goes there."""

    pace: Pace

    def say(self, line: str, style: str = "") -> None:
        """Report an event."""

    def ready(self, redis_url: str, flower_url: str | None) -> None:
        """Report that everything runs, and where Flower is."""

    def draw(self) -> None:
        """Show the scene, which has changed."""

    def table(self, title: str, rows: Rows) -> None:
        """Show the facts at the end."""


class PlainScreen:
    """Plain lines, for logs and pipes: what happened, and now and then how far everything is."""

    pace = QUICK

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self._last = 0.0
        self._over = False

    def say(self, line: str, style: str = "") -> None:
        """Report an event."""
        print(line, flush=True)

    def ready(self, redis_url: str, flower_url: str | None) -> None:
        """Report that everything runs, and where Flower is."""
        self.say(f"Ready: model 'demo' on {self._scene.places} engines, {redis_url}")
        if flower_url is not None:
            self.say(f"Flower, meanwhile: {flower_url}")

    def draw(self) -> None:
        """A line of progress, at most one a second; none once there are facts."""
        scene = self._scene
        if self._over or scene.elapsed_s - self._last < 1.0:
            return
        self._last = scene.elapsed_s
        pages = " ".join(f"{engine.used:4.0%}" for engine in scene.engines)
        offsets = " ".join(str(stream.offset) for stream in scene.streams)
        self.say(
            f"{scene.elapsed_s:5.1f} s  done {scene.finished}/{scene.total_jobs}  queued {scene.queued}  "
            f"KV pages {pages}  stream offsets {offsets}"
        )

    def table(self, title: str, rows: Rows) -> None:
        """One fact a line."""
        self._over = True
        self.say(f"\n{title}")
        for name, value in rows:
            self.say(f"  {name:<34} {value}")


class LiveScreen:
    """Frames that fill the terminal while the tour runs; the facts stand where it was called afterwards."""

    pace = WATCHED

    def __init__(self, scene: Scene, console: Console) -> None:
        self._scene, self._console = scene, console
        scene.note = "The first start compiles kernels for this CPU: up to a minute. Ctrl-C stops it."
        self._tables: list[tuple[str, Rows]] = []
        self.live = Live(
            get_renderable=lambda: frame(scene, *console.size),
            console=console,
            screen=True,  # the terminal's alternate screen: nothing scrolls away at any size
            refresh_per_second=_FRAMES_PER_S,
            redirect_stdout=False,
            redirect_stderr=False,
        )

    def say(self, line: str, style: str = "") -> None:
        """Report an event."""
        self._scene.events.append((line, style))

    def ready(self, redis_url: str, flower_url: str | None) -> None:
        """Report that everything runs, and where Flower is."""
        flower = f" Flower: {flower_url}." if flower_url else ""
        self._scene.note = f"Slowed down to be watched.{flower} Ctrl-C stops it."

    def draw(self) -> None:
        """Frames are drawn all the time."""

    def table(self, title: str, rows: Rows) -> None:
        """Facts, shown by `close`."""
        self._tables.append((title, rows))

    def close(self) -> None:
        """Show the facts."""
        table = Table(title=self._tables[0][0], show_header=False, title_justify="left", title_style="bold")
        names = max(len(name) for _, rows in self._tables for name, _ in rows)
        table.add_column(no_wrap=True)
        table.add_column(no_wrap=True, overflow="ellipsis", max_width=self._console.width - names - _BORDERS)
        for _, rows in self._tables:
            for name, value in rows:
                table.add_row(name, value)
            table.add_section()
        for line, style in self._scene.events:
            if style:
                self._console.print(line, style=style, highlight=False)
        self._console.print(table)


@contextmanager
def screen(scene: Scene) -> Iterator[Screen]:
    """A live screen on a terminal, else plain lines."""
    console = Console()
    drawable = console.is_terminal and not console.is_dumb_terminal and console.encoding.startswith("utf")
    if not drawable or console.width < _LEAST_WIDTH:
        yield PlainScreen(scene)
        return
    live = LiveScreen(scene, console)
    with live.live:
        yield live
    live.close()
