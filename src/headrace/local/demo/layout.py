"""One frame of the live screen: as much of the scene as a terminal of this size can show."""

import math

from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from .scene import EngineView, Scene, StreamView

COLOURS = {"A": "cyan", "B": "magenta", "C": "green", "D": "blue", "E": "yellow"}

_STREAM_WIDTH = 38
"""Narrower columns can't hold a sentence."""

_MOST_COLUMNS = 3
_LEAST_HEIGHT = 3
"""Lines of a stream: its border and one line of text."""

_CORNERS = 6
"""What a panel's title leaves of the line that it stands on."""

_WIDE = 120
"""From this width on there is room for an engine's whole name."""


def frame(scene: Scene, width: int, height: int) -> RenderableType:
    """The scene on exactly `height` lines of `width` columns."""
    events = 2 + min(3, max(0, height - 24) // 5)
    above = [_title(scene), *_events(scene, events), _engines(scene, width)]
    left = height - 1 - events - (max(scene.places, len(scene.engines)) + 3) - 1
    return Group(*above, _streams(scene, width, left), _line(f" {scene.note}", "dim"))


def _title(scene: Scene) -> RenderableType:
    line = Table.grid(expand=True)
    line.add_column()
    line.add_column(justify="right")
    name = _line(" headrace demo: jobs on a queue, streams that survive kill -9", "bold")
    line.add_row(name, f"{scene.elapsed_s:.0f} s ")
    return line


def _line(text: str, style: str) -> Text:
    """Text that takes one line, however long it is."""
    return Text(text, style=style, no_wrap=True, overflow="ellipsis")


def _events(scene: Scene, count: int) -> list[Text]:
    """The newest events, the newest one in bold, always on as many lines."""
    shown = scene.events[-count:]
    lines = [
        _line(f" {line}", f"bold {style}".strip() if at == len(shown) else style)
        for at, (line, style) in enumerate(shown, 1)
    ]
    return [*lines, *[Text() for _ in range(count - len(lines))]]


def _engines(scene: Scene, width: int) -> RenderableType:
    grid = Table.grid(padding=(0, 2, 0, 0))
    for _ in range(3):
        grid.add_column(no_wrap=True)
    bar = max(8, min(60, width - (88 if width >= _WIDE else 58)))
    for engine in scene.engines:
        grid.add_row(*_engine(engine, bar, width, killed=engine is scene.killed))
    for _ in range(scene.places - len(scene.engines)):
        grid.add_row(Text("engine process: starting", style="dim"))
    waiting = f"{scene.queued} jobs wait" if scene.queued else "no job waits"
    grid.add_row("queue", _bar(bar, scene.queued, scene.total_jobs, "yellow"), waiting)
    return Panel(grid, title="engines", subtitle=f"{scene.finished} of {scene.total_jobs} jobs have ended")


def _engine(engine: EngineView, bar: int, width: int, *, killed: bool) -> list[RenderableType]:
    colour = COLOURS.get(engine.letter, "white")
    name = f"engine {engine.letter}  pid {engine.pid}" + (f"  {engine.name}" if width >= _WIDE else "")
    if killed:
        return [Text(name, style="red strike"), Text("killed with -9", style="bold red"), "another starts"]
    load = f"{engine.pages_used:>3} of {engine.pages_total} KV pages, {engine.running:>2} jobs"
    return [Text(name, style=colour), _bar(bar, engine.pages_used, engine.pages_total, colour), load]


def _bar(width: int, part: int, whole: int, colour: str) -> Text:
    full = min(width, math.ceil(width * part / whole)) if whole else 0
    return Text.assemble(("█" * full, colour), ("░" * (width - full), "dim"))


def _streams(scene: Scene, width: int, height: int) -> RenderableType:
    columns = max(1, min(_MOST_COLUMNS, width // _STREAM_WIDTH))
    rows = max(1, min(math.ceil(len(scene.streams) / columns), height // _LEAST_HEIGHT))
    grid = Table.grid()
    for row in range(rows):
        tall = height // rows + (row < height % rows)
        shown = scene.streams[row * columns : (row + 1) * columns]
        grid.add_row(*(_stream(stream, width // columns, tall) for stream in shown))
    return grid


def _stream(stream: StreamView, width: int, height: int) -> Panel:
    text = Text(stream.prompt, style="bold")
    for engine, piece in stream.text_by_owner():
        printable = "".join(mark if mark.isprintable() else " " for mark in piece)
        text.append(printable, style=f"not bold {COLOURS.get(engine, '')}".strip())
    state, colour = _state(stream)
    return Panel(
        _end_of(text, width - 4, height - 2),
        title=_name(stream, width - _CORNERS),
        title_align="left",
        subtitle=state,
        subtitle_align="right",
        border_style=colour,
        width=width,
        height=height,
    )


def _name(stream: StreamView, width: int) -> str:
    owner = f"on engine {stream.owner}" if stream.owner else ""
    if not stream.over_http:
        return f'"{stream.prompt}" {owner}'.rstrip()
    name = f'"{stream.prompt}" over HTTP'
    whole = f"{name}, {owner}" if owner else name
    return whole if len(whole) <= width else f"{name}, on {stream.owner}"


def _end_of(text: Text, width: int, lines: int) -> RenderableType:
    """The last lines of a text that fit."""
    return Group(*text.wrap(Console(width=width), width)[-lines:])


def _state(stream: StreamView) -> tuple[str, str]:
    """What is happening to a stream, in words and as a colour."""
    if stream.cut is not None:
        return f"cut off at token {stream.cut}", "bold red"
    again = "" if stream.resumed is None else f", resumed at {stream.resumed}"
    if stream.done:
        return f"done: {stream.offset} tokens{again}", "green"
    if stream.owner is None:
        return "waits", "dim"
    return f"token {stream.offset}{again}", "yellow" if again else COLOURS.get(stream.owner, "white")
