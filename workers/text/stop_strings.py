"""Stop strings over a stream: what may be the beginning of one is held back until it is sure."""

from collections.abc import Sequence


class StopStrings:
    """Watches one stream of text for the first of several strings."""

    __slots__ = ("_held", "_longest", "_stops")

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._longest = max(map(len, self._stops), default=0)
        self._held = ""

    def add(self, text: str) -> tuple[str, str | None]:
        """The text to let out, and the stop string found, if one was: the text ends before it."""
        if not self._stops:
            return text, None
        seen = self._held + text
        found = [(at, stop) for stop in self._stops if (at := seen.find(stop)) >= 0]
        if found:
            at, stop = min(found)
            self._held = ""
            return seen[:at], stop
        keep = self._doubtful(seen)
        self._held = seen[len(seen) - keep :]
        return seen[: len(seen) - keep], None

    def _doubtful(self, seen: str) -> int:
        for length in range(min(self._longest - 1, len(seen)), 0, -1):
            if any(stop.startswith(seen[-length:]) for stop in self._stops):
                return length
        return 0

    def flush(self) -> str:
        """What is still held back; no stop string came of it."""
        held, self._held = self._held, ""
        return held
