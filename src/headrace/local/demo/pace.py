"""How fast the tour goes: quickly when nobody watches, at a reader's pace on a terminal."""

from dataclasses import dataclass
from typing import Any


@dataclass(slots=True, frozen=True)
class Pace:
    """What the tour runs, and when it kills an engine.

    Attributes:
        stream_tokens: output of each stream.
        background_jobs, background_tokens: batch jobs beside the streams, and the output of each.
        kill_at, kill_before: an engine is killed while it runs a stream whose offset is between these.
        notice_s: how long the kill is announced before it happens.
        look_s: time between two looks at the engines and the queue.
        worker: settings of the worker.
        step_s: shortest duration of an engine's step; with 0 it runs as fast as it can.
    """

    stream_tokens: int
    background_jobs: int
    background_tokens: int
    kill_at: int
    kill_before: int
    notice_s: float
    look_s: float
    worker: dict[str, Any]
    step_s: float = 0.0


_COMMON = {"model": "demo", "device": "cpu", "lease_s": 2, "engines": 2, "heartbeat_s": 0.25}
"""A short lease and a small page pool: a laptop shows in seconds what a cluster shows in minutes."""

QUICK = Pace(
    stream_tokens=220,
    background_jobs=60,
    background_tokens=120,
    kill_at=60,
    kill_before=140,
    notice_s=0.0,
    look_s=0.1,
    worker=_COMMON | {"num_pages": 640, "max_batch_size": 40},
)

WATCHED = Pace(
    stream_tokens=300,
    background_jobs=50,
    background_tokens=90,
    kill_at=75,
    kill_before=200,
    notice_s=1.5,
    look_s=0.1,
    worker=_COMMON | {"num_pages": 160, "max_batch_size": 16},
    step_s=0.04,
)
