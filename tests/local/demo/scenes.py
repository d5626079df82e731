"""Moments of a tour, always the same; `python -m tests.local.demo.scenes` writes the screens of them."""

import io
from pathlib import Path

from rich.console import Console
from rich.screen import Screen
from tests.local.demo.terminal import Terminal

from headrace.local.demo.layout import frame
from headrace.local.demo.scene import OVER_HTTP, STREAM_PROMPTS, EngineView, Scene, StreamView
from headrace.local.demo.screen import LiveScreen

SCREENS = Path(__file__).parent / "screens"
SIZES = ("80x24", "100x30", "120x40", "160x50", "200x60")
PLACES = "ABABBA"
"""Which engine has each stream."""

WORDS = ("returns", "the", "value", "of", "a", "mapping", "and", "*key*", "is", "raised", "when", "new")
CUT = 112


def running() -> Scene:
    """All six streams have some tokens."""
    scene = Scene([StreamView(prompt) for prompt in STREAM_PROMPTS], 56, clock=lambda: 5.4, started_at=0.0)
    scene.streams[OVER_HTTP].over_http = True
    scene.see(
        [
            EngineView("A", "worker-host-4711-0-313cc1", 4712, 159, 31, 16),
            EngineView("B", "worker-host-4711-1-99abb2", 4713, 159, 12, 16),
        ]
    )
    for at, (stream, engine) in enumerate(zip(scene.streams, PLACES, strict=True)):
        stream.belongs_to(engine)
        _write(stream, CUT - at)
    scene.queued, scene.finished = 24, 8
    scene.events = [
        ("6 interactive streams and 50 batch jobs are queued.", ""),
        ("2 engines take as many as their KV pages hold; the rest waits in Redis.", ""),
    ]
    scene.note = "Slowed down to be watched. Flower: http://127.0.0.1:24778. Ctrl-C stops it."
    return scene


def killed() -> Scene:
    """Engine B was killed, and nobody has gone on with its streams yet."""
    scene = running()
    scene.killed = scene.engines[1]
    for stream in scene.streams:
        if stream.owner == "B":
            stream.cut = stream.offset
    scene.events += [
        ("Next: kill -9 engine B (pid 4713) while it runs 16 jobs, and a gateway", ""),
        ('kill -9 4801: the gateway that serves "A dictionary is" over HTTP dies', "red"),
        ('kill -9 4713: engine B dies at token 111 of "A dictionary is" (16 jobs)', "red"),
    ]
    return scene


def resumed() -> Scene:
    """Engine A goes on with all of B's streams but one."""
    scene = killed()
    *first, _ = [stream for stream in scene.streams if stream.cut is not None]
    for stream in first:
        stream.belongs_to("A")
        _write(stream, 20)
    scene.events.append(
        ('"A dictionary is" resumed on engine A at token 112, none lost or repeated', "green")
    )
    scene.finished, scene.queued = 23, 21
    return scene


def _write(stream: StreamView, tokens: int) -> None:
    for number in range(stream.offset, stream.offset + tokens):
        stream.take(number, number + 1, f" {WORDS[number * 5 % len(WORDS)]}")


def screen(scene: Scene, size: str) -> Terminal:
    """A terminal of this size that shows the scene."""
    terminal = Terminal(*map(int, size.split("x")))
    console = _console(terminal)
    console.print(Screen(frame(scene, *console.size)), end="")
    return _read(console, terminal)


def end(size: str) -> Terminal:
    """A terminal of this size after the tour."""
    terminal = Terminal(*map(int, size.split("x")))
    console = _console(terminal)
    scene = resumed()
    scene.events += [
        ('"A dictionary is" resumed through another gateway at token 112, none lost', "green"),
        ("Engine C (pid 4902) has been started in its place and takes jobs", "bold"),
    ]
    live = LiveScreen(scene, console)
    http = ("HTTP stream at another gateway", "resumed at token 112, none lost")
    live.table(
        "What happened", [("jobs finished", "56 of 56"), http, ("tokens lost or repeated in streams", "0")]
    )
    live.table("From a Celery project", [('generate.delay("A list is").get()', "a list of " * 20)])
    live.close()
    console.print("Everything is stopped.")
    return _read(console, terminal)


def _console(terminal: Terminal) -> Console:
    return Console(
        file=io.StringIO(),
        force_terminal=True,
        color_system="truecolor",
        width=terminal.columns,
        height=terminal.lines,
        _environ={},
    )


def _read(console: Console, terminal: Terminal) -> Terminal:
    written = console.file
    assert isinstance(written, io.StringIO)
    terminal.feed(written.getvalue().replace("\n", "\r\n"))
    return terminal


if __name__ == "__main__":
    for size in SIZES:
        (SCREENS / f"{size}.txt").write_text(screen(resumed(), size).text)
    (SCREENS / "end-80x24.txt").write_text(end("80x24").text)
