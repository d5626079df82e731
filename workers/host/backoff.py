"""How long to wait before an engine process that died is started again."""

from collections import deque
from dataclasses import dataclass, field


@dataclass(slots=True, frozen=True)
class RestartPolicy:
    """When to start again.

    Attributes:
        first_s: the wait after a first death; doubles with every further one.
        most_s: the longest wait.
        stable_s: a process that lived this long was well; the next wait is the first again.
        loop_deaths, loop_window_s: this many deaths within this time are a crash loop.
    """

    first_s: float = 1.0
    most_s: float = 60.0
    stable_s: float = 60.0
    loop_deaths: int = 5
    loop_window_s: float = 300.0


@dataclass(slots=True)
class RestartBackoff:
    """The deaths of one place's engine processes. Times are of any one clock, in seconds."""

    policy: RestartPolicy
    _wait_s: float = 0.0
    _deaths: deque[float] = field(default_factory=deque)

    def died(self, now: float, lived_s: float, *, explained: bool = False) -> float:
        """Note a death; how long to wait before the next start.

        One that is `explained` says nothing against the place: its process had served jobs, or ran a single
        one, which the queue holds to account. Others are not to wait for long until all such jobs have been
        found, however many there are.
        """
        policy = self.policy
        if explained:
            self._deaths.clear()
            self._wait_s = policy.first_s
            return policy.first_s
        self._deaths.append(now)
        if lived_s >= policy.stable_s or self._wait_s == 0.0:
            self._wait_s = policy.first_s
        else:
            self._wait_s = min(policy.most_s, self._wait_s * 2)
        return policy.most_s if self.crash_looping(now) else self._wait_s

    def crash_looping(self, now: float) -> bool:
        """Whether it dies again and again: whatever the reason, starting it again does not help."""
        while self._deaths and now - self._deaths[0] > self.policy.loop_window_s:
            self._deaths.popleft()
        return len(self._deaths) >= self.policy.loop_deaths
