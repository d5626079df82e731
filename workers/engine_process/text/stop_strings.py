"""Finds stop strings in a stream, holding back what may be the beginning of one until it is certain.

An Aho-Corasick automaton reads each character once. Its state is the longest suffix of the text that begins a
stop string, which is exactly what must be held back. So the work per character doesn't grow with the number
or length of the stop strings, and the result doesn't depend on how the text was cut into pieces. The stop
string that is complete first wins; if several end together, the longest.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(slots=True, eq=False)
class _State:
    """The first `depth` characters of a stop string; `hit` is the longest stop string that they end with."""

    depth: int = 0
    next: "dict[str, _State]" = field(default_factory=dict)
    shorter: "_State | None" = None
    hit: str | None = None

    def after(self, character: str) -> "_State":
        state = self
        while character not in state.next:
            if state.shorter is None:
                return state
            state = state.shorter
        return state.next[character]


def _automaton(stops: Sequence[str]) -> _State:
    root = _State()
    for stop in stops:
        state = root
        for character in stop:
            state = state.next.setdefault(character, _State(state.depth + 1))
        state.hit = stop
    level = [root]
    while level:
        for state in level:
            for character, child in state.next.items():
                # An example, with the stop strings END and ND!: after EN, `shorter` is N, since N begins ND!.
                # So in ENDLESS the first is found at D, and in XND! the second at the exclamation mark.
                child.shorter = root if state.shorter is None else state.shorter.after(character)
                child.hit = child.hit or child.shorter.hit
        level = [child for state in level for child in state.next.values()]
    return root


class StopStrings:
    """Watches one stream of text for the first of several strings.

    Args:
        held: what another instance for the same strings holds back, to continue from there.

    Attributes:
        held: what is held back now.
    """

    __slots__ = ("_any", "_state", "held")

    def __init__(self, stops: Sequence[str], held: str = "") -> None:
        self._any = bool(stops)
        self._state = _automaton(stops)
        self.held = ""
        self.add(held, heed=False)

    def add(self, text: str, *, heed: bool = True) -> tuple[str, str | None]:
        """Return the text to release, and the stop string found, if any: the text ends before it.

        With `heed` false, a stop string that is complete in this text doesn't count; one that only begins in
        it may.
        """
        if not self._any:
            return text, None
        state, seen = self._state, self.held + text
        for index in range(len(self.held), len(seen)):
            state = state.after(seen[index])
            if heed and state.hit:
                self.held = ""
                return seen[: index + 1 - len(state.hit)], state.hit
        self._state = state
        # The last `depth` characters begin a stop string, and are held back; all before them can be in none.
        sure = len(seen) - state.depth
        self.held = seen[sure:]
        return seen[:sure], None

    def flush(self) -> str:
        """The text that is still held back, which turned out not to begin a stop string."""
        held, self.held = self.held, ""
        return held
