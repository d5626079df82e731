"""What signals mean to the host.

SIGTERM, SIGHUP and the first SIGINT mean hand over. The Celery worker keeps running meanwhile, so that
heartbeats and `inspect` show the host as alive until its last job has gone to another; then it stops too.
SIGQUIT or a second SIGINT mean end within a second.
"""

import signal
from types import FrameType

from .supervisor import Supervisor


def on_signals(supervisor: Supervisor) -> None:
    """Handle this process's signals from now on. Call it in the main thread."""

    def drain(signum: int, frame: FrameType | None) -> None:
        if signum == signal.SIGINT and supervisor.draining:
            supervisor.kill()
        else:
            supervisor.drain()

    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, drain)
    signal.signal(signal.SIGQUIT, lambda *_: supervisor.kill())
