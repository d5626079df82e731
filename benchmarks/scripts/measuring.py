"""What a call of a script costs Redis."""

from collections.abc import Callable
from pathlib import Path
from statistics import median

from redis import Redis

from headrace.schemas.scripts import drain, run

from .queue import TAG, Named

Meter = Callable[[], float]

NOTHING = drain(TAG, "nobody", 0)
"""Comes before each, so that the interpreter is in the processor's caches whatever was done before."""


def measure(redis: Redis, calls: Named, meter: Meter) -> dict[str, float]:
    """By how much the calls of each name make the meter go on, medians."""
    found: dict[str, list[float]] = {}
    for name, several in calls:
        for call in several:
            run(redis, NOTHING)
            before = meter()
            run(redis, call)
            found.setdefault(name, []).append(meter() - before)
    return {name: median(each) for name, each in found.items()}


def microseconds(redis: Redis) -> Meter:
    """The CPU time of Redis's main thread, which other work on the machine does not come into."""
    schedstat = Path(f"/proc/{redis.info('server')['process_id']}/schedstat")
    return lambda: int(schedstat.read_text().split()[0]) / 1000


def commands(redis: Redis) -> Meter:
    """Commands that scripts gave."""
    ours = ("cmdstat_eval", "cmdstat_config", "cmdstat_info")

    def given() -> float:
        stats = redis.info("commandstats")
        return float(sum(stat["calls"] for name, stat in stats.items() if not name.startswith(ours)))

    return given
