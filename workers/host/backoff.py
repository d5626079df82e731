"""How long to wait before restarting an engine process that died."""

from collections import deque
from dataclasses import dataclass, field


@dataclass(slots=True, frozen=True)
class RestartPolicy:
    """When to restart.

    Attributes:
        first_s: the wait after the first death; it doubles with every further one.
        most_s: the longest wait.
        stable_s: a process that lived this long was healthy, and the next wait is `first_s` again.
        loop_deaths, loop_window_s: this many deaths within this time are a crash loop.
    """

    first_s: float = 1.0
    most_s: float = 60.0
    stable_s: float = 60.0
    loop_deaths: int = 5
    loop_window_s: float = 300.0


@dataclass(slots=True)
class RestartBackoff:
    """Counts the deaths of one place's engine processes. Times are in seconds, of any one clock."""

    policy: RestartPolicy
    _wait_s: float = 0.0
    _deaths: deque[float] = field(default_factory=deque)

    def died(self, now: float, lived_s: float, *, explained: bool = False) -> float:
        """Note a death and return how long to wait before the next start.

        An `explained` death says nothing against the place: the process had served jobs, or was running a
        single one, which the queue holds responsible. However many such jobs there are, the others should not
        wait long until all have been found.
        """
        policy = self.policy
        if explained:
            self._deaths.clear()
            self._wait_s = policy.first_s
            return policy.first_s
        # 1, 2, 4, 8 seconds: the fifth death within five minutes is a crash loop, and then it is a minute
        # each.
        self._deaths.append(now)
        if lived_s >= policy.stable_s or self._wait_s == 0.0:
            self._wait_s = policy.first_s
        else:
            self._wait_s = min(policy.most_s, self._wait_s * 2)
        return policy.most_s if self.crash_looping(now) else self._wait_s

    def crash_looping(self, now: float) -> bool:
        """Whether it keeps dying, so that restarting it doesn't help."""
        while self._deaths and now - self._deaths[0] > self.policy.loop_window_s:
            self._deaths.popleft()
        return len(self._deaths) >= self.policy.loop_deaths
