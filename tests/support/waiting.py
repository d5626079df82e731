"""Waiting for what a test can see happen; however slow the machine is, as long as it does happen."""

import asyncio
import threading
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

WAIT_S = 90.0
"""Far longer than anything takes that is not stuck."""


def _pause_s(waited_s: float) -> float:
    """Until the next look: a small part of the wait so far. Looking takes time from what is awaited."""
    return min(0.05, max(0.005, waited_s / 20))


def wait_until(what: Callable[[], T], timeout_s: float = WAIT_S) -> T:
    """The first true value of `what()`; fails the test when there is none in time."""
    pause, started_at = threading.Event(), time.monotonic()
    while not (value := what()):
        waited_s = time.monotonic() - started_at
        assert waited_s < timeout_s, f"not within {timeout_s} s"
        pause.wait(_pause_s(waited_s))
    return value


async def wait_until_async(
    what: Callable[[], T], timeout_s: float = WAIT_S, otherwise: str | None = None
) -> T:
    """`wait_until` for asyncio; `otherwise` says what is missing when time is up."""
    started_at = time.monotonic()
    while not (value := what()):
        waited_s = time.monotonic() - started_at
        assert waited_s < timeout_s, otherwise or f"not within {timeout_s} s"
        await asyncio.sleep(_pause_s(waited_s))
    return value
