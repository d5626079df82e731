"""A text that is still being written, for parsers that are generators.

A parser yields `Delta`s, and `None` when what it has doesn't tell how to go on. It yields each piece as soon
as the text so far settles it, and looks at nothing else. So what has been yielded after some text depends on
that text alone, however it was cut into portions.
"""

import re
from collections.abc import Callable, Generator
from typing import TypeVar

from .deltas import Content, Delta

T = TypeVar("T")

Steps = Generator[Delta | None, None, T]

_WHITESPACE = " \t\r\n"


class GrowingText:
    """The text, and how far it has been read.

    Attributes:
        text: what may still be needed of it.
        at: the place up to which it has been read.
        ended: whether there will be no more.
        calls: how many calls have begun.
        most_calls: how many may; None for any number.
    """

    __slots__ = ("at", "calls", "ended", "most_calls", "text")

    def __init__(self, most_calls: int | None = None) -> None:
        self.text, self.at, self.ended = "", 0, False
        self.calls, self.most_calls = 0, most_calls

    def forget(self) -> None:
        """Drop what has been read: no parser will go back."""
        self.text, self.at = self.text[self.at :], 0

    def full(self) -> bool:
        """Whether no further call may begin."""
        return self.most_calls is not None and self.calls >= self.most_calls


def peek(source: GrowingText) -> Steps[str]:
    """The next character; empty at the end."""
    while source.at >= len(source.text):
        if source.ended:
            return ""
        yield None
    return source.text[source.at]


def skip_space(source: GrowingText) -> Steps[str]:
    """Skip white space; return the next character, empty at the end."""
    while (character := (yield from peek(source))) and character in _WHITESPACE:
        source.at += 1
    return character


def accept(source: GrowingText, literal: str) -> Steps[bool]:
    """Skip a literal, if it comes next."""
    while True:
        ahead = source.text[source.at : source.at + len(literal)]
        if ahead == literal:
            source.at += len(literal)
            return True
        if source.ended or not literal.startswith(ahead):
            return False
        yield None


def accept_spaced(source: GrowingText, literal: str) -> Steps[bool]:
    """Skip white space and a literal, if they come next; else nothing."""
    start = source.at
    yield from skip_space(source)
    if (yield from accept(source, literal)):
        return True
    source.at = start
    return False


class Markers:
    """Strings that end a run of text."""

    def __init__(self, *names: str) -> None:
        self.pattern = re.compile("|".join(map(re.escape, sorted(names, key=len, reverse=True))) or r"(?!)")
        # The beginnings of all of them, of which a text may end with one.
        self._begun = {name[:length] for name in names for length in range(1, len(name))}
        self._longest = max(map(len, names), default=1) - 1

    def held(self, text: str, start: int) -> int:
        """How many characters at the text's end may begin a marker."""
        for length in range(min(self._longest, len(text) - start), 0, -1):
            if text[-length:] in self._begun:
                return length
        return 0


def run(
    source: GrowingText,
    markers: Markers,
    made: Callable[[str], Delta],
    *,
    lead: bool = False,
) -> Steps[tuple[str, str]]:
    """Read text up to the first marker, which is skipped too, or to the end.

    White space is held back until something follows it.

    Args:
        source: the text.
        markers: what ends it.
        made: makes a delta of a piece.
        lead: leave out white space at its beginning.

    Returns:
        The marker, empty at the end of the text, and the white space before it.
    """
    spaces: list[str] = []
    while True:
        found = markers.pattern.search(source.text, source.at)
        until = found.start() if found else len(source.text)
        if not found and not source.ended:
            until -= markers.held(source.text, source.at)
        piece = source.text[source.at : until]
        source.at = until
        if lead:
            piece = piece.lstrip(_WHITESPACE)
        body = piece.rstrip(_WHITESPACE)
        if body:
            lead = False
            yield made("".join([*spaces, body]))
            spaces.clear()
        if len(body) < len(piece):
            spaces.append(piece[len(body) :])
        if found:
            source.at = found.end()
            return found.group(), "".join(spaces)
        if source.ended:
            return "", "".join(spaces)
        source.forget()
        yield None


def with_calls(
    source: GrowingText, markers: Markers, call: Callable[[str], Steps[bool]], *, lead: bool = False
) -> Steps[None]:
    """Read an answer in which each marker begins calls; one that doesn't is text, and so is what follows it.

    Args:
        source: the text.
        markers: what begins calls.
        call: reads what follows a marker, given the marker; returns whether it was a call.
        lead: leave out white space at the answer's beginning, as it is after a call.
    """
    while True:
        marker, space = yield from run(source, markers, Content, lead=lead)
        if not marker:
            if space and not source.calls:
                yield Content(space)
            return
        begins = source.at
        lead = not source.full() and (yield from call(marker))
        if not lead:
            source.at = begins
            yield Content(space + marker)


def word(source: GrowingText, ends: str, most: int = 256) -> Steps[str]:
    """Read up to one of some characters, or to the end; empty if that is further than `most`."""
    start = looked = source.at
    while True:
        for place in range(looked, min(len(source.text), start + most)):
            if source.text[place] in ends:
                source.at = place
                return source.text[start:place]
        looked = len(source.text)
        if len(source.text) >= start + most:
            return ""
        if source.ended:
            source.at = len(source.text)
            return source.text[start:]
        yield None
