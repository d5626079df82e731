"""How long an operation takes on a device."""

import statistics
import time
from collections.abc import Callable

import torch

_FLUSH_BYTES = 256 << 20
"""More than the second-level cache of any GPU: written between two timed calls, so that each reads memory."""


def median_s(run: Callable[[], object], device: str = "cpu", budget_s: float = 0.5) -> float:
    """Median seconds of a call, after a warm-up, over as many as fit the budget (at least five)."""
    return statistics.median(_times_s(run, device, budget_s))


def fastest_s(run: Callable[[], object], device: str = "cpu", budget_s: float = 0.5) -> float:
    """Seconds of the fastest of these calls: what the machine can do while nothing disturbs it."""
    return min(_times_s(run, device, budget_s))


def _times_s(run: Callable[[], object], device: str, budget_s: float) -> list[float]:
    timed = _gpu_timer(run) if device != "cpu" else _cpu_timer(run)
    timed()
    once = max(timed(), 1e-7)
    return [timed() for _ in range(min(1000, max(5, int(budget_s / once))))]


def _cpu_timer(run: Callable[[], object]) -> Callable[[], float]:
    def timed() -> float:
        started = time.perf_counter()
        run()
        return time.perf_counter() - started

    return timed


def _gpu_timer(run: Callable[[], object]) -> Callable[[], float]:
    flush = torch.empty(_FLUSH_BYTES, dtype=torch.int8, device="cuda")

    def timed() -> float:
        flush.zero_()
        started, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        started.record()
        run()
        ended.record()
        ended.synchronize()
        return started.elapsed_time(ended) / 1000

    return timed
