"""What the others noticed of hostile tenants, as numbers, a table, and promises broken."""

import statistics
from dataclasses import dataclass, field
from typing import Any

from .innocents import Felt

MOST_TIMES = 2.0
"""The longest silence with hostile tenants, against without."""

NOTHING_S = 0.1
"""Streams are published every 0.05 s; what is shorter than twice that is no silence."""

PROMPT_S = 0.5
"""A webhook within this time is not late: what was not announced is looked for every 0.25 s."""

MOST_OFF = 0.1
"""How far a share of the tokens may lie from its weight's."""

ENOUGH_TOKENS = 30_000
"""Of all tenants together; in fewer the jobs that happen to run at both ends of the window weigh too much."""


@dataclass(frozen=True, slots=True)
class Window:
    """What the innocents felt between two moments, in seconds since the epoch; `kind` is the attack."""

    kind: str
    begin: float
    end: float
    felt: Felt


@dataclass(frozen=True, slots=True)
class Share:
    """Tokens that a tenant was served, prompts included."""

    tenant: str
    weight: float
    tokens: int


@dataclass
class Outcome:
    """What hostile tenants did to the others.

    Attributes:
        compared: whether times are judged.
        windows: in their order.
        webhooks: of innocents' jobs: when the job ended, and how much later its webhook arrived.
        jobs, tokens: the innocents'.
        deaths: of engine processes.
        violations: broken promises.
    """

    compared: bool
    seconds: float = 0.0
    windows: list[Window] = field(default_factory=list)
    webhooks: list[tuple[float, float]] = field(default_factory=list)
    shares: list[Share] = field(default_factory=list)
    jobs: int = 0
    tokens: int = 0
    deaths: int = 0
    violations: list[str] = field(default_factory=list)
    _asked: dict[str, tuple[int, int]] = field(default_factory=dict)

    def asked(self, kind: str, accepted: int, refused: int) -> None:
        """An attack's jobs."""
        before = self._asked.get(kind, (0, 0))
        self._asked[kind] = before[0] + accepted, before[1] + refused

    def silence_s(self, kind: str) -> float:
        """The median of the longest silences in all windows of a kind."""
        return statistics.median(window.felt.silence_s for window in self._of(kind))

    def is_felt(self, kind: str) -> bool:
        """Whether the innocents notice these attacks."""
        return self._times(kind) > MOST_TIMES

    @property
    def broken(self) -> list[str]:
        """All broken promises, those about time among them."""
        found = list(self.violations)
        if self.compared:
            prompt_s = max(PROMPT_S, MOST_TIMES * (self._webhook_s("") or 0.0))
            found += [
                f"{kind}: a silence of {self.silence_s(kind):.2f} s where without it is {self._alone_s:.2f} s"
                for kind in self._kinds
                if kind != "killers" and self.is_felt(kind)
            ]
            found += [
                f"{kind}: webhooks {late:.2f} s late"
                for kind in self._kinds
                if (late := self._webhook_s(kind) or 0.0) > prompt_s
            ]
            found += [
                f"{share.tenant} was served {share.tokens} tokens, {times:.2f} times its share"
                for share in self.shares
                if abs((times := self._times_share(share)) - 1) > MOST_OFF and self._served >= ENOUGH_TOKENS
            ]
        return found

    @property
    def _kinds(self) -> list[str]:
        return [*dict.fromkeys(window.kind for window in self.windows if window.kind)]

    @property
    def _alone_s(self) -> float:
        return max(NOTHING_S, self.silence_s(""))

    @property
    def _served(self) -> int:
        return sum(share.tokens for share in self.shares)

    def _of(self, kind: str) -> list[Window]:
        return [window for window in self.windows if window.kind == kind]

    def _times(self, kind: str) -> float:
        return self.silence_s(kind) / self._alone_s

    def _most_s(self, kind: str) -> float:
        return max(window.felt.silence_s for window in self._of(kind))

    def _first_token_s(self, kind: str) -> float | None:
        found = [each.felt.first_token_s for each in self._of(kind) if each.felt.first_token_s is not None]
        return statistics.median(found) if found else None

    def _webhook_s(self, kind: str) -> float | None:
        """The median delay of the webhooks of jobs that ended in windows of a kind."""
        windows = self._of(kind)
        found = [late for at, late in self.webhooks if any(each.begin <= at < each.end for each in windows)]
        return statistics.median(found) if found else None

    def _times_share(self, share: Share) -> float:
        due = self._served * share.weight / sum(each.weight for each in self.shares)
        return share.tokens / due if due else 0.0

    @property
    def summary(self) -> str:
        """For people."""
        counts = f"{self.jobs} innocent jobs, {self.tokens} tokens; {self.deaths} engine processes died"
        head = f"{'hostile tenants':<20}{'windows':>8}{'accepted':>9}{'refused':>8}"
        head += f"{'silence':>10}{'times':>7}{'most':>10}{'1st token':>11}{'webhook':>10}"
        lines = [f"{self.seconds:.0f} s: {counts}", head]
        for kind in ["", *self._kinds]:
            accepted, refused = self._asked.get(kind, (0, 0))
            times = f"{self._times(kind):.1f}" if kind != "killers" else "–"
            lines.append(
                f"{kind or 'none':<20}{len(self._of(kind)):>8}{accepted:>9}{refused:>8}"
                f"{_s(self.silence_s(kind), 10)}{times:>7}{_s(self._most_s(kind), 10)}"
                f"{_s(self._first_token_s(kind), 11)}{_s(self._webhook_s(kind), 10)}"
            )
        if self.shares:
            lines.append(f"{'tenant':<20}{'weight':>8}{'tokens':>9}{'of its share':>14}")
        lines += [
            f"{share.tenant:<20}{share.weight:>8g}{share.tokens:>9}{self._times_share(share):>14.2f}"
            for share in self.shares
        ]
        if not self.compared:
            lines.append("(times are not judged in so short a run)")
        elif self._served < ENOUGH_TOKENS:
            lines.append(f"(too few tokens to judge shares by: {self._served} of {ENOUGH_TOKENS})")
        return "\n".join([*lines, f"{len(self.broken)} violations", *self.broken])

    def facts(self) -> dict[str, Any]:
        """For programs."""
        return {
            "seconds": round(self.seconds, 1),
            "jobs": self.jobs,
            "tokens": self.tokens,
            "deaths": self.deaths,
            "silence_s": {kind or "none": round(self.silence_s(kind), 3) for kind in ["", *self._kinds]},
            "shares": {share.tenant: round(self._times_share(share), 3) for share in self.shares},
            "violations": self.broken,
        }


def _s(seconds: float | None, width: int) -> str:
    return f"{'–':>{width}}" if seconds is None else f"{seconds:>{width - 2}.2f} s"
