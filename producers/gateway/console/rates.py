"""Throughput, time to first token and time between tokens, found by looking at jobs once a second.

A job's record says when its first token came and how many it has, so a round adds what has changed since the
last one: this is exact for every job that is looked at, however short it is.
"""

import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from ....schemas.events import JobState, JobStatus

WINDOW_S = 15.0
"""The medians cover this many seconds; those of single seconds would jump about."""

KEPT_S = 300.0
"""How far back the plots go."""

UNSEEN_S = 10.0
"""A job first seen this many seconds after its first token was there before, but not looked at."""


@dataclass(slots=True)
class _Seen:
    """A job as it was when its number of tokens last changed."""

    offset: int
    at: float
    restarts: int
    tokens_s: float | None = None


@dataclass(slots=True)
class Rates:
    """What has been seen while a page was open."""

    _seen: dict[str, _Seen] = field(default_factory=dict)
    _last: float | None = None
    _first_s: deque[tuple[float, float]] = field(default_factory=deque)
    _gaps_s: deque[tuple[float, float]] = field(default_factory=deque)
    _points: deque[dict[str, Any]] = field(default_factory=deque)

    def observe(self, jobs: Sequence[JobStatus]) -> Mapping[str, Any]:
        """The sections `now`, `history` and `jobs` after a look at the running and the newest jobs."""
        now = time.monotonic()
        if self._last is not None and now - self._last > KEPT_S:  # nobody has looked for long
            self._seen.clear()
            self._last = None
        before, self._seen = self._seen, {}
        tokens = sum(self._note(job, before.get(job.job_id), now) for job in jobs)
        rate = None if self._last is None else round(tokens / max(0.001, now - self._last), 1)
        self._last = now
        point = {"at": time.time_ns() // 1_000_000, "tokens_s": rate}
        point |= _quantiles("ttft", _recent(self._first_s, now)) | _quantiles(
            "itl", _recent(self._gaps_s, now)
        )
        self._points.append(point)
        while point["at"] - self._points[0]["at"] > 1000 * KEPT_S:
            self._points.popleft()
        running = [job for job in jobs if job.state is JobState.RUNNING]
        return {
            "now": point,
            "history": list(self._points),
            "jobs": [self._shown(job, now) for job in running],
        }

    def _note(self, job: JobStatus, before: _Seen | None, now: float) -> int:
        """Note a job's state; return how many more tokens it has than before."""
        seen = self._seen[job.job_id] = _Seen(job.offset, now, job.restarts)
        if self._last is None:
            return 0  # nobody knows what came before the first look
        had = 0 if before is None or before.restarts != job.restarts else before.offset
        if before is None and _began_before(job, now - self._last + UNSEEN_S):
            return 0  # it was there, among more than are looked at
        if had == 0 and job.offset > 0 and job.first_token_ms is not None:
            self._first_s.append((now, max(0, job.first_token_ms - job.enqueued_ms) / 1000))
        more = max(0, job.offset - had)
        if before is not None and more == 0:
            seen.at, seen.tokens_s = before.at, 0.0
        elif had > 0 and before is not None and job.state is JobState.RUNNING:
            took_s = max(0.001, now - before.at)
            seen.tokens_s = more / took_s
            self._gaps_s.append((now, took_s / more))
        elif job.offset > 1 and job.first_token_ms is not None and job.finished_ms is not None and more:
            self._gaps_s.append((now, (job.finished_ms - job.first_token_ms) / 1000 / (job.offset - 1)))
        return more

    def _shown(self, job: JobStatus, now: float) -> dict[str, Any]:
        seen = self._seen[job.job_id]
        shown = job.model_dump(mode="json", include=_SHOWN)
        speed = None if seen.tokens_s is None else round(seen.tokens_s, 1)
        return shown | {"tokens_s": speed, "stalled_s": int(now - seen.at)}


_SHOWN = {"job_id", "model", "job_class", "tenant", "offset", "attempts", "worker", "started_ms"}


def union(*lists: Iterable[JobStatus]) -> list[JobStatus]:
    """Each job once, from the first list that contains it."""
    found: dict[str, JobStatus] = {}
    for job in chain(*lists):
        found.setdefault(job.job_id, job)
    return list(found.values())


def _began_before(job: JobStatus, ago_s: float) -> bool:
    """Whether its first token is older; Redis's clock and this one's are taken for about the same."""
    return job.first_token_ms is not None and time.time_ns() / 1e9 - job.first_token_ms / 1000 > ago_s


def _recent(values: deque[tuple[float, float]], now: float) -> list[float]:
    while values and now - values[0][0] > WINDOW_S:
        values.popleft()
    return sorted(value for _, value in values)


def _quantiles(name: str, values: Sequence[float]) -> dict[str, float | None]:
    def at(share: float) -> float | None:
        return round(values[min(len(values) - 1, int(share * len(values)))], 4) if values else None

    return {f"{name}_p50": at(0.5), f"{name}_p95": at(0.95)}
