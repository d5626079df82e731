"""Importing ahead of time, without taking cores from what is needed now."""

import os
import threading
from collections.abc import Callable

import structlog

NICE = 10
"""Against one busy thread this leaves the imports a tenth of a core, and 19 would leave them a hundredth."""

log = structlog.get_logger(__name__)


def gently(load: Callable[[], object]) -> bool:
    """Call it at a low priority; whether it raised nothing.

    In a thread of its own: on Linux a thread without privileges can lower its priority but not raise it
    again, and the process needs the usual one later.
    """
    loaded = False

    def run() -> None:
        nonlocal loaded
        os.nice(NICE)  # only this thread's
        try:
            load()
        except Exception:
            log.warning("imports_failed", exc_info=True)
        else:
            loaded = True

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return loaded
