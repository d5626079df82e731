"""Logs what keeps happening at once, then ever less often: Redis may be unreachable for days."""

import time
from dataclasses import dataclass

FIRST_S, MOST_S = 5.0, 600.0


@dataclass(slots=True)
class Seldom:
    """Decides when something is logged again. For one thread."""

    _said: str = ""
    _next: float = 0.0
    _pause_s: float = 0.0

    def due(self, what: str) -> bool:
        """Whether to log this now: it differs from the last message, or that was long enough ago."""
        now = time.monotonic()
        if what == self._said and now < self._next:
            return False
        self._pause_s = FIRST_S if what != self._said else min(MOST_S, 2 * self._pause_s)
        self._said, self._next = what, now + self._pause_s
        return True

    def over(self) -> None:
        """Note that it has stopped happening, so that the next time is news."""
        self._said = ""
