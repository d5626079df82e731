"""Waiting for what a test can see happen; however slow the machine is, as long as it does happen."""

import asyncio
import threading
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

WAIT_S = 90.0
"""Far longer than anything takes that is not stuck."""

_PAUSE_S = 0.01


def wait_until(what: Callable[[], T], timeout_s: float = WAIT_S) -> T:
    """The first true value of `what()`; fails the test when there is none in time."""
    pause, give_up_at = threading.Event(), time.monotonic() + timeout_s
    while not (value := what()):
        assert time.monotonic() < give_up_at, f"not within {timeout_s} s"
        pause.wait(_PAUSE_S)
    return value


async def wait_until_async(
    what: Callable[[], T], timeout_s: float = WAIT_S, otherwise: str | None = None
) -> T:
    """`wait_until` for asyncio; `otherwise` says what is missing when time is up."""
    give_up_at = time.monotonic() + timeout_s
    while not (value := what()):
        assert time.monotonic() < give_up_at, otherwise or f"not within {timeout_s} s"
        await asyncio.sleep(_PAUSE_S)
    return value
