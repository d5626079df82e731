"""Arguments whose values are written without quotes, told as JSON."""

import json
from collections.abc import Callable, Mapping

from .deltas import Arguments, Delta
from .format import ValueKind
from .source import GrowingText, Markers, Steps


def quoted(text: str) -> str:
    """The inside of a string in JSON; that of two texts is that of both, joined."""
    return json.dumps(text, ensure_ascii=False)[1:-1]


def typed(text: str, kind: ValueKind | None) -> str:
    """A value as JSON; what isn't of its kind is a string."""
    bare = text.strip()
    if kind == "nullable" and bare in ("null", "None"):
        return "null"
    if kind == "json":
        bare = {"True": "true", "False": "false", "None": "null"}.get(bare, bare)
        try:
            json.loads(bare, parse_constant=_refuse)
        except (ValueError, RecursionError):
            pass
        else:
            return bare
    return json.dumps(text, ensure_ascii=False)


def _refuse(name: str) -> None:
    raise ValueError(name)


def parameter(
    source: GrowingText,
    index: int,
    name: str,
    kinds: Mapping[str, ValueKind],
    ends: Markers,
    *,
    first: bool,
    lines: bool,
) -> Steps[bool]:
    """Read a value up to its end marker, and tell it as a member of the arguments.

    A string is told as it is written, a value of another kind when it is whole.

    Args:
        source: the text, at the value's beginning.
        index: the call's.
        name: the parameter's.
        kinds: the kinds of the function's parameters that aren't strings.
        ends: the end marker.
        first: whether it is the first parameter.
        lines: whether the format writes the value on lines of its own.

    Returns:
        Whether the value has its end.
    """
    key = ("{" if first else ", ") + json.dumps(name, ensure_ascii=False) + ": "
    kind = kinds.get(name)
    if kind is None:
        yield Arguments(index, key + '"')
        whole = yield from raw(source, ends, lines, lambda text: Arguments(index, quoted(text)))
        if whole:
            yield Arguments(index, '"')
        return whole
    pieces: list[str] = []
    whole = yield from raw(source, ends, lines, pieces.append)
    if whole:
        yield Arguments(index, key + typed("".join(pieces), kind))
    return whole


def raw(source: GrowingText, ends: Markers, lines: bool, made: Callable[[str], Delta | None]) -> Steps[bool]:
    """Read up to a marker; with `lines`, without a line break at the beginning and at the end."""
    lead = lines
    while True:
        found = ends.pattern.search(source.text, source.at)
        until = found.start() if found else len(source.text)
        if not found and not source.ended:
            until -= ends.held(source.text, source.at)
        piece = source.text[source.at : until]
        if lead and piece:
            lead = False
            skipped = len(piece) - len(piece.removeprefix("\n"))
            source.at += skipped
            piece = piece[skipped:]
        if lines and piece.endswith("\n"):  # perhaps the last one
            piece = piece[:-1]
        if piece:
            source.at += len(piece)
            if (delta := made(piece)) is not None:
                yield delta
        if found:
            source.at = found.end()
            return True
        if source.ended:
            source.at = len(source.text)
            return False
        source.forget()
        yield None
