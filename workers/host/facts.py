"""What a host says about its engine processes, for `celery inspect stats` and its own commands."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict

from ..supervision.pipe import Stats
from .engine_child import EngineChild
from .places import Place


def stats_fields(places: Sequence[Place]) -> dict[str, str | int]:
    """What is known about each place's engine process, as flat fields."""
    facts: dict[str, str | int] = {}
    for place in places:
        name, child = f"engine_{place.index}", place.child
        facts[f"{name}_state"] = child.state if child else "ended"
        if child is None:
            continue
        facts |= {f"{name}_pid": child.pid, f"{name}_worker": child.launch.worker_id}
        if child.ready is None and child.download:
            facts[f"{name}_download"] = child.download
        if child.stats:
            facts |= {
                f"{name}_running": child.stats.running,
                f"{name}_waiting": child.stats.waiting,
                f"{name}_pages_total": child.stats.pages_total,
                f"{name}_pages_free": child.stats.pages_free,
            }
    return facts


def kv_stats(children: Iterable[EngineChild]) -> list[dict[str, str | int]]:
    """KV pages and jobs of each engine process, as last reported."""
    return [
        {"engine": child.launch.worker_id, "state": child.state, **_kept(child.stats)}
        for child in children
        if child.stats is not None
    ]


def _kept(stats: Stats) -> dict[str, int]:
    return {name: value for name, value in asdict(stats).items() if isinstance(value, int)}
