"""JSON that is still being written."""

import json
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass

from .deltas import Arguments, CallBegin, Delta
from .source import GrowingText, Steps, accept, peek, skip_space

MAX_NAME = 256
"""Characters of a function's name; OpenAI allows 64."""

_IN_STRING = re.compile(r'[^"\\]*')
_BETWEEN = re.compile(r"[\s\w+\-.,:]*")
_SCALAR = re.compile(r"[\w+\-.]*")
_CLOSES = {"{": "}", "[": "]"}


class _Scanner:
    """Finds the end of one value, portion by portion; it checks only that brackets match."""

    __slots__ = ("_begun", "_closing", "_escaped", "_inside", "_scalar", "state")

    def __init__(self) -> None:
        self._closing: list[str] = []
        self._begun = self._inside = self._escaped = self._scalar = False
        self.state = "open"  # or done, or broken

    def scan(self, text: str, at: int) -> int:
        """How far the value goes from here on."""
        while at < len(text) and self.state == "open":
            character = text[at]
            if self._escaped:
                self._escaped = False
            elif self._inside:
                at = _end(_IN_STRING, text, at)
                if at == len(text):
                    break
                self._escaped = text[at] == "\\"
                self._inside = self._escaped
                self._close()
            elif self._scalar:
                at = _end(_SCALAR, text, at)
                if at < len(text):
                    self.state = "done"
                break
            elif character == '"':
                self._inside = True
            elif character in _CLOSES:
                self._closing.append(_CLOSES[character])
            elif not self._begun:
                self._scalar = _SCALAR.fullmatch(character) is not None
                self.state = "open" if self._scalar else "broken"
                at -= 1  # it is read as part of the scalar
            elif character == self._closing[-1]:
                self._closing.pop()
                self._close()
            elif (end := _end(_BETWEEN, text, at)) > at:
                at = end - 1
            else:
                self.state = "broken"
                break
            self._begun = True
            at += 1
        return at

    def end(self) -> None:
        """Note that the text has ended."""
        if self.state == "open":
            self.state = "done" if self._scalar else "broken"

    def _close(self) -> None:
        if not self._closing and not self._inside:
            self.state = "done"


def _end(pattern: re.Pattern[str], text: str, at: int) -> int:
    match = pattern.match(text, at)
    return match.end() if match else at


def value(source: GrowingText, made: Callable[[str], Delta] | None = None) -> Steps[str | None]:
    """Read a value.

    Args:
        source: the text, at the value's first character.
        made: makes a delta of each piece as soon as it is there.

    Returns:
        The value as it is written, empty if `made` took it; None if it is broken off or isn't JSON.
    """
    scanner, read = _Scanner(), []
    while True:
        stop = scanner.scan(source.text, source.at)
        piece, source.at = source.text[source.at : stop], stop
        if piece and made:
            yield made(piece)
            source.forget()
        elif piece:
            read.append(piece)
        if source.ended:
            scanner.end()
        if scanner.state != "open":
            return None if scanner.state == "broken" else "".join(read)
        yield None


def string(source: GrowingText) -> Steps[str | None]:
    """Read a value that must be a string; None if it isn't one."""
    if (yield from peek(source)) != '"':
        return None
    written = yield from value(source)
    return None if written is None else decoded(written)


def decoded(written: str) -> str | None:
    """The string that a value is; None if it is another one, or can't be read."""
    try:
        found = json.loads(written, strict=False)
        found.encode()  # half a surrogate pair can't be written again
    except (AttributeError, ValueError, RecursionError):
        return None
    return found if isinstance(found, str) else None


@dataclass(slots=True)
class _Object:
    """A call that is being read.

    Attributes:
        index: its number.
        name: the function's, once known.
        early: arguments that came before the name.
        told: whether the arguments have begun to be told.
        whole: whether it may be closed: not broken off within a value.
    """

    index: int
    name: str | None = None
    early: str | None = None
    told: bool = False
    whole: bool = True


def call(source: GrowingText, keys: Collection[str] = ("arguments", "parameters")) -> Steps[bool]:
    """Read a call as an object: `{"name": …, "arguments": {…}}`, with its keys in either order.

    Returns:
        Whether there is one: a call has a name. If not, `source.at` is anywhere within it.
    """
    if not (yield from accept(source, "{")):
        return False
    found = _Object(source.calls)
    while (yield from _member(source, found, keys)):
        source.at += 1
    if found.whole:
        yield from accept(source, "}")
        if found.name is not None and not found.told:
            yield Arguments(found.index, "{}")
    return found.name is not None


def _member(source: GrowingText, found: _Object, keys: Collection[str]) -> Steps[bool]:
    """Read a key and its value; return whether a comma follows."""
    if (yield from skip_space(source)) != '"':
        return False
    key = yield from string(source)
    if key is None or (yield from skip_space(source)) != ":":
        return False
    source.at += 1
    yield from skip_space(source)
    if key == "name" and found.name is None:
        name = yield from string(source)
        if not name or len(name) > MAX_NAME:
            found.whole = False
            return False
        found.name = name
        source.calls += 1
        yield CallBegin(found.index, name)
        if found.early is not None:
            found.told = True
            yield Arguments(found.index, found.early)
    elif key in keys and not found.told and found.early is None:
        yield from _arguments(source, found)
    elif (yield from value(source)) is None:
        found.whole = False
    return found.whole and (yield from skip_space(source)) == ","


def _arguments(source: GrowingText, found: _Object) -> Steps[None]:
    """Read the arguments and tell them, as soon as the name is known."""
    index, begins = found.index, (yield from peek(source))
    if found.name is not None and begins == "{":
        found.told = True
        found.whole = (yield from value(source, lambda piece: Arguments(index, piece))) is not None
        return
    written = yield from value(source)
    # Some models write the object as a string, as OpenAI's API does.
    found.early = decoded(written) if written is not None and begins == '"' else written
    found.whole = written is not None
    if found.name is not None and found.early:
        found.told = True
        yield Arguments(index, found.early)
