"""What happened in a storm, and how long the streams stood still for it."""

import time
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

ON_ITS_WAY_S = 0.05
"""What a reader hears within this time of a fault may have been sent before it."""


@dataclass(frozen=True, slots=True)
class Row:
    """One kind of fault: how often, how many streams it hit, and from it to their next token."""

    kind: str
    faults: int
    streams: int
    median_s: float | None
    p99_s: float | None
    max_s: float | None


@dataclass
class Ledger:
    """Faults as they happen. A stream's gap belongs to the last fault that hit it before its next token."""

    started: float = field(default_factory=time.monotonic)
    faults: Counter[str] = field(default_factory=Counter)
    history: list[str] = field(default_factory=list)
    _gaps: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    _open: dict[str, tuple[str, float]] = field(default_factory=dict)

    def strike(self, kind: str, target: str, job_ids: Iterable[str]) -> None:
        """A fault hits a target, and the streams of these jobs."""
        now = time.monotonic()
        self.faults[kind] += 1
        hit = list(job_ids)
        self.history.append(f"{now - self.started:8.2f} s  {kind}: {target}, {len(hit)} jobs there")
        self._open.update(dict.fromkeys(hit, (kind, now)))

    def heard(self, job_id: str) -> None:
        """A stream goes on."""
        if job_id in self._open:
            kind, since = self._open[job_id]
            gap_s = time.monotonic() - since
            if gap_s > ON_ITS_WAY_S:
                self._gaps[kind].append(gap_s)
                del self._open[job_id]
                at = time.monotonic() - self.started
                self.history.append(f"{at:8.2f} s  {job_id} goes on {gap_s:.2f} s after {kind}")

    def rows(self) -> list[Row]:
        return [self._row(kind, count) for kind, count in sorted(self.faults.items())]

    def _row(self, kind: str, count: int) -> Row:
        gaps = sorted(self._gaps[kind])
        at = [round(gaps[int(share * (len(gaps) - 1))], 3) if gaps else None for share in (0.5, 0.99, 1.0)]
        return Row(kind, count, len(gaps), *at)

    def table(self) -> str:
        """For people."""
        head = f"{'fault':<34}{'count':>6}{'streams':>9}{'median':>9}{'p99':>9}{'max':>9}"
        lines = [
            f"{row.kind:<34}{row.faults:>6}{row.streams:>9}{_s(row.median_s)}{_s(row.p99_s)}{_s(row.max_s)}"
            for row in self.rows()
        ]
        return "\n".join([head, *lines, f"{'all':<34}{self.faults.total():>6}"])

    def facts(self) -> list[dict[str, Any]]:
        """For programs."""
        return [asdict(row) for row in self.rows()]


def _s(seconds: float | None) -> str:
    return f"{'–':>9}" if seconds is None else f"{seconds:>7.2f} s"
