"""When to try again: the delays between the attempts of one delivery.

A receiver may be down for a weekend and still get everything: with the delays below, a failed attempt is
repeated nine times in three days. Jitter only ever adds, so that neither a delay nor the receiver's own
`Retry-After` is cut short, and deliveries that failed together don't come back together.
"""

from collections.abc import Callable
from dataclasses import dataclass

JITTER = 0.2
"""At most this share of a delay is added to it."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """The delays between the attempts of one delivery.

    Attributes:
        delays_s: the wait after the first attempt, after the second, and so on. If the attempt after the last
            wait fails too, the delivery is given up.
    """

    # 5 seconds, 5 and 30 minutes, 2, 5, 10, 14, 20 and 24 hours: 75.6 hours in all, 3 days and a bit.
    delays_s: tuple[float, ...] = (5, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 72_000, 86_400)

    def __post_init__(self) -> None:
        if any(delay_s < 0 for delay_s in self.delays_s):
            raise ValueError(f"delays_s = {self.delays_s}: a delay can't be negative")

    def after(self, attempts: int, retry_after_s: float | None, jitter: Callable[[], float]) -> float | None:
        """Seconds to wait before the next attempt; None if the delivery is given up.

        Args:
            attempts: failed attempts so far, at least 1.
            retry_after_s: the minimum wait that the receiver asked for.
            jitter: returns a number in [0, 1), like `random.random`.
        """
        if attempts > len(self.delays_s):
            return None
        return max(self.delays_s[attempts - 1], retry_after_s or 0.0) * (1 + JITTER * jitter())
