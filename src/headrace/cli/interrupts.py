"""Ctrl-C and SIGTERM, recorded as well as raised.

Python raises KeyboardInterrupt wherever it happens to be. In a destructor the exception would be printed and
lost, so it isn't raised there; a loop that waits checks whether an interrupt came.
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
    """Make each of `INTERRUPTS` raise KeyboardInterrupt in the main thread from now on."""
    handler = _Interrupts()
    for number in INTERRUPTS:
        signal.signal(number, handler)


def check_interrupts() -> None:
    """Raise an interrupt that came where it could not be raised.

    Raises:
        KeyboardInterrupt: an interrupt has come.
    """
    handler = signal.getsignal(signal.SIGINT)
    if isinstance(handler, _Interrupts) and handler.came:
        raise KeyboardInterrupt
