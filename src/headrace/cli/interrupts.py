"""Ctrl-C and SIGTERM, noted as well as raised.

Python raises KeyboardInterrupt wherever it is, and where that is a destructor the exception is printed and
lost. So none is raised there, and who waits in a loop asks whether one came.
"""

import signal
from types import FrameType

INTERRUPTS = (signal.SIGINT, signal.SIGTERM)


class _Interrupts:
    """Handles the signals; `came` says whether one has."""

    def __init__(self) -> None:
        self.came = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self.came = True
        if not _in_destructor(frame):
            raise KeyboardInterrupt


def _in_destructor(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_name == "__del__":
            return True
        frame = frame.f_back
    return False


def raise_interrupts() -> None:
    """From now on each of `INTERRUPTS` raises KeyboardInterrupt in the main thread."""
    handler = _Interrupts()
    for number in INTERRUPTS:
        signal.signal(number, handler)


def check_interrupts() -> None:
    """See whether an interrupt came.

    Raises:
        KeyboardInterrupt: one did.
    """
    handler = signal.getsignal(signal.SIGINT)
    if isinstance(handler, _Interrupts) and handler.came:
        raise KeyboardInterrupt
