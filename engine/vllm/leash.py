"""Runs a command and everything that it starts, and ends all of it when the starting process ends.

It is run as a file, without importing anything of headrace, as `python leash.py FD COMMAND…`: FD is the
inherited end of a pipe whose other end the starting process holds, so that the kernel closes it however that
process ends. vLLM's own processes don't do this: without their parent, the one that holds the GPU lives on.

A session of their own keeps signals to the worker's group away from the leash and from the command.
"""

import ctypes
import os
import select
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

GRACE_S = 3.0
"""How long the command has to end by itself."""

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36


def main(fd: int, command: list[str]) -> int:
    """Run the command until it ends or the pipe closes; return its exit status."""
    os.set_inheritable(fd, False)
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, signal.SIG_IGN)
    # So that what loses its parent becomes a child of the leash.
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    child = subprocess.Popen(command, start_new_session=True, preexec_fn=_with_the_leash)  # noqa: PLW1509 - one thread
    ended = os.pidfd_open(child.pid)
    select.select([fd, ended], [], [])
    if child.poll() is None:
        _signal(child.pid, signal.SIGTERM)
        select.select([ended], [], [], GRACE_S)
    _signal(child.pid, signal.SIGKILL)
    status = child.wait()
    _end_the_rest()
    return status


def _end_the_rest() -> None:
    """Kill and reap what the command started and left behind, until nothing is left."""
    while True:
        for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split():
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def _with_the_leash() -> None:
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, signal.SIG_DFL)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _signal(group: int, signum: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(group, signum)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2:]))
