"""What keeps happening is said at once and then ever more seldom: Redis may be away for days."""

import time
from dataclasses import dataclass

FIRST_S, MOST_S = 5.0, 600.0


@dataclass(slots=True)
class Seldom:
    """Decides when something is said again; for one thread."""

    _said: str = ""
    _next: float = 0.0
    _pause_s: float = 0.0

    def due(self, what: str) -> bool:
        """Whether to say this now: it differs from the last, or that was long enough ago."""
        now = time.monotonic()
        if what == self._said and now < self._next:
            return False
        self._pause_s = FIRST_S if what != self._said else min(MOST_S, 2 * self._pause_s)
        self._said, self._next = what, now + self._pause_s
        return True

    def over(self) -> None:
        """It has stopped happening; should it begin again, that is new."""
        self._said = ""
