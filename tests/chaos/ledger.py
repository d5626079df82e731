"""What happened in a storm, and how long the streams stood still for it."""

import time
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

ON_ITS_WAY_S = 0.05
"""What a reader hears within this time of a fault may have been sent before it."""

SEVERAL = "several at once"
AGAIN = "second death over a job"
"""Its jobs are suspects: each is tried alone, until it is past where its last worker died."""


@dataclass(frozen=True, slots=True)
class Row:
    """One kind of fault: how often, how many streams it hit, and from it to their next token."""

    kind: str
    faults: int
    streams: int
    median_s: float | None
    p99_s: float | None
    max_s: float | None


@dataclass(slots=True)
class _Gap:
    since: float
    row: str


@dataclass
class Ledger:
    """Faults as they happen, and the gap from a fault to the next token of each stream that it hit.

    A stream that is hit again before that has one gap, from the first fault on, in a row of its own.
    """

    started: float = field(default_factory=time.monotonic)
    faults: Counter[str] = field(default_factory=Counter)
    history: list[str] = field(default_factory=list)
    _gaps: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    _open: dict[str, _Gap] = field(default_factory=dict)

    def strike(self, kind: str, target: str, jobs: Mapping[str, str]) -> None:
        """A fault hits a target; each stream that it hits will have its gap in the row given."""
        now = time.monotonic()
        self.faults[kind] += 1
        self.history.append(f"{now - self.started:8.2f} s  {kind}: {target}, {len(jobs)} jobs there")
        for job_id, row in jobs.items():
            if job_id in self._open:
                self._open[job_id].row = SEVERAL
            else:
                self._open[job_id] = _Gap(now, row)

    def heard(self, job_id: str) -> None:
        """A stream goes on."""
        gap = self._open.get(job_id)
        now = time.monotonic()
        if gap is not None and now - gap.since > ON_ITS_WAY_S:
            del self._open[job_id]
            gap_s = now - gap.since
            self._gaps[gap.row].append(gap_s)
            at = now - self.started
            self.history.append(f"{at:8.2f} s  {job_id} goes on {gap_s:.2f} s after {gap.row}")

    def rows(self) -> list[Row]:
        kinds = [*sorted(self.faults), *(row for row in (AGAIN, SEVERAL) if self._gaps[row])]
        return [self._row(kind, self.faults[kind]) for kind in kinds]

    def _row(self, kind: str, count: int) -> Row:
        gaps = sorted(self._gaps[kind])
        at = [round(gaps[int(share * (len(gaps) - 1))], 3) if gaps else None for share in (0.5, 0.99, 1.0)]
        return Row(kind, count, len(gaps), *at)

    def table(self) -> str:
        """For people."""
        head = f"{'fault':<25}{'count':>6}{'streams':>9}{'median':>9}{'p99':>9}{'max':>9}"
        lines = [
            f"{row.kind:<25}{row.faults or '–':>6}{row.streams:>9}"
            + "".join(_s(seconds) for seconds in (row.median_s, row.p99_s, row.max_s))
            for row in self.rows()
        ]
        return "\n".join([head, *lines, f"{'all':<25}{self.faults.total():>6}"])

    def facts(self) -> list[dict[str, Any]]:
        """For programs."""
        return [asdict(row) for row in self.rows()]


def _s(seconds: float | None) -> str:
    return f"{'–':>9}" if seconds is None else f"{seconds:>7.2f} s"
