"""A worker's health: its supervisor's loop, and each engine process as it last reported."""

import time
from typing import Any

from ...telemetry.health import TURN_S, Report
from .places import Place
from .supervisor import Supervisor


class HostHealth:
    """Answers for one host.

    Args:
        lease_s: an engine process that has not reached Redis for this long has lost its jobs.

    Attributes:
        supervisor: the supervisor of its engine processes; None until it exists.
    """

    def __init__(self, lease_s: float) -> None:
        self._lease_s = lease_s
        self.supervisor: Supervisor | None = None

    def live(self) -> Report:
        """Whether the supervisor's loop is running; Celery's may wait for its broker indefinitely."""
        if self.supervisor is None or self.supervisor.turns(TURN_S):
            return Report()
        return Report(
            [f"the loop that supervises the engine processes has made no progress for {TURN_S:g} s"]
        )

    def ready(self) -> Report:
        """Whether every engine process has its model and pages, and reaches Redis."""
        if self.supervisor is None:
            return Report(["the host is starting"])
        engines = [self._engine(place, time.monotonic()) for place in self.supervisor.places]
        problems = [f"engine {facts['engine']}: {facts['problem']}" for facts in engines if facts["problem"]]
        if self.supervisor.draining:
            problems.insert(0, "the worker has been told to stop")
        return Report(problems, {"engines": engines})

    def _engine(self, place: Place, now: float) -> dict[str, Any]:
        child = place.child
        facts: dict[str, Any] = {"engine": place.index, "state": "ended", "problem": ""}
        if child is None:
            facts["problem"] = "it was drained" if place.paused else "it has ended"
            if place.start_at is not None:
                facts["restart_in_s"] = round(max(0.0, place.start_at - now), 1)
                facts["problem"] = f"it will be restarted in {facts['restart_in_s']} s"
            return facts
        facts |= {"state": child.state, "worker": child.launch.worker_id, "pid": child.pid}
        stats = child.stats
        if child.ready is None:
            facts["problem"] = f"it has been loading its model for {now - child.started_at:.0f} s"
        elif child.end_by is not None:
            facts |= {"state": "draining", "problem": "it is handing its jobs over"}
        elif stats is None:
            facts["problem"] = "it has not reported yet"
        if child.ready is not None and stats is not None:
            contact_s = stats.contact_s + now - child.heard_at
            facts |= {
                "running": stats.running,
                "waiting": stats.waiting,
                "pages_total": stats.pages_total,
                "pages_free": stats.pages_free,
                "redis": stats.trouble or "ok",
                "exchanged_s_ago": round(contact_s, 1),
            }
            if not facts["problem"]:
                facts["problem"] = self._of_redis(stats.trouble, contact_s)
        return facts

    def _of_redis(self, trouble: str, contact_s: float) -> str:
        if trouble:
            return trouble
        if contact_s > self._lease_s:
            return f"it has not reached Redis for {contact_s:.0f} s, longer than its lease"
        return ""
