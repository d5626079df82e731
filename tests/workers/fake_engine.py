"""Stands in for an engine process: supervision needs its life and death, never a model.

`fake_engine.py <behaviour> <fd>`; the behaviours are the functions below.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from headrace.telemetry import logs
from headrace.workers.metrics import Metrics, engine_place, share
from headrace.workers.supervision.lifeline import join_host
from headrace.workers.supervision.pipe import (
    Drain,
    Drained,
    EnginePipe,
    Fatal,
    LaunchEngine,
    Ready,
    Starting,
    Stats,
    Stop,
)


def serve(pipe: EnginePipe, launch: LaunchEngine, drain_s: float = 0.0) -> int:
    """Be ready, report, hand over when told to or when the host is gone."""
    pipe.send(Ready(launch.worker_id, "demo", "demo", pages_total=10, context_tokens=100))
    while True:
        told_to = any(isinstance(message, Drain | Stop) for message in pipe.receive(wait_s=0.1))
        if told_to or pipe.closed:
            pipe.receive(wait_s=drain_s)
            pipe.send(Drained(released=2))
            return 0
        pipe.send(Stats(running=1, waiting=2, pages_total=10, pages_free=5))


def slow(pipe: EnginePipe, launch: LaunchEngine) -> int:
    """As `serve`, with a hand-over that takes some seconds."""
    return serve(pipe, launch, drain_s=3.0)


def count(pipe: EnginePipe, launch: LaunchEngine) -> int:
    """As `serve`, after noting a step and a page in the metrics."""
    assert launch.metrics_dir is not None
    share(launch.metrics_dir, engine_place(launch.index))
    metrics = Metrics("demo")
    metrics.step(0.01, 5)
    metrics.engine(
        SimpleNamespace(  # type: ignore[arg-type]
            **dict.fromkeys(("running", "waiting", "pages_total", "pages_free", "pages_cached"), 1),
            **dict.fromkeys(("pages_held", "pages_shared", "tokens_held", "preemptions"), 1),
            **dict.fromkeys(("prefix_query_tokens", "prefix_hit_tokens", "host_s"), 1),
        )
    )
    return serve(pipe, launch)


def deaf(pipe: EnginePipe, launch: LaunchEngine) -> int:
    """Be ready and then hang: nothing but SIGKILL, or its own lifeline, ends it."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    pipe.send(Ready(launch.worker_id, "demo", "demo", pages_total=10, context_tokens=100))
    return deaf_to_all()


def deaf_to_all() -> int:
    """Wait for SIGKILL."""
    while True:
        time.sleep(60)


def late(pipe: EnginePipe, launch: LaunchEngine) -> int:
    """Report as if all were well, but for exchanges that come to no end."""
    pipe.send(Ready(launch.worker_id, "demo", "demo", pages_total=10, context_tokens=100))
    while not pipe.closed:
        pipe.receive(wait_s=0.05)
        pipe.send(Stats(running=1, waiting=0, pages_total=10, pages_free=5, late={"exchange": 1e6}))
    return 0


def cut_off(pipe: EnginePipe, launch: LaunchEngine) -> int:
    """Report that Redis is away."""
    return report(pipe, launch, trouble="Redis: nothing listens there")


def alone(pipe: EnginePipe, launch: LaunchEngine) -> int:
    """Report that Redis has not answered for long, and no error."""
    return report(pipe, launch, contact_s=99.0)


def report(pipe: EnginePipe, launch: LaunchEngine, **facts: Any) -> int:
    """Be ready and report these facts."""
    pipe.send(Ready(launch.worker_id, "demo", "demo", pages_total=10, context_tokens=100))
    while not pipe.closed:
        pipe.receive(wait_s=0.05)
        pipe.send(Stats(running=0, waiting=0, pages_total=10, pages_free=10, **facts))
    return 0


def loading(pipe: EnginePipe, launch: LaunchEngine) -> int:
    """Load for ever."""
    return deaf_to_all()


def silent(pipe: EnginePipe, launch: LaunchEngine) -> int:
    """End the pipe and hang."""
    pipe.close()
    return deaf_to_all()


def crash(pipe: EnginePipe, launch: LaunchEngine) -> int:
    """Die at once."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def fatal(pipe: EnginePipe, launch: LaunchEngine) -> int:
    """Say that starting again can't help."""
    pipe.send(Fatal("no such model: nowhere/none"))
    return 3


def fatal_again(pipe: EnginePipe, launch: LaunchEngine) -> int:
    """Serve at first; every later process finds that it can't."""
    ran = Path(json.loads(launch.settings)["model"])
    if ran.exists():
        return fatal(pipe, launch)
    ran.touch()
    return serve(pipe, launch)


if __name__ == "__main__":
    behaviour, fd = sys.argv[1:]
    logs.configure("info")
    pipe, launch = join_host(int(fd))
    pipe.send(Starting())
    sys.exit(globals()[behaviour](pipe, launch))
