"""Runs a command and everything that it starts, and ends all of it when the starting process ends.

It is run as a file, without importing anything of headrace, as `python leash.py FD FOLDER COMMAND…`: FD is
the inherited end of a pipe whose other end the starting process holds, so that the kernel closes it however
that process ends. FOLDER is removed at the end. vLLM's own processes don't do this: without their parent, the
one that holds the GPU lives on.

A session of their own keeps signals to the worker's group away from the leash and from the command.
"""

import ctypes
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

GRACE_S = 3.0
"""How long the command has to end by itself, and then what removes its shared memory."""

_PAUSE_S = 0.02

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36


def main(fd: int, folder: str, command: list[str]) -> int:
    """Run the command until it ends or the pipe closes, then remove the folder; return its exit status."""
    os.set_inheritable(fd, False)
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, signal.SIG_IGN)
    # So that what loses its parent becomes a child of the leash.
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    child = subprocess.Popen(command, start_new_session=True, preexec_fn=_with_the_leash)  # noqa: PLW1509 - one thread
    ended = os.pidfd_open(child.pid)
    select.select([fd, ended], [], [])
    if child.poll() is None:
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGTERM)
        select.select([ended], [], [], GRACE_S)
    child.kill()
    status = child.wait()
    _end_the_rest()
    shutil.rmtree(folder, ignore_errors=True)
    return status


def _end_the_rest() -> None:
    """Kill and reap what the command started and left behind, until nothing is left.

    Python's resource trackers end by themselves once the others have, and remove the others' shared memory.
    """
    spare_until = time.monotonic() + GRACE_S
    while True:
        spare = time.monotonic() < spare_until
        for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split():
            if not (spare and _is_resource_tracker(pid)):
                with suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
        try:
            reaped, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if not reaped:
            time.sleep(_PAUSE_S)


def _is_resource_tracker(pid: str) -> bool:
    try:
        return b"multiprocessing.resource_tracker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def _with_the_leash() -> None:
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, signal.SIG_DFL)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2], sys.argv[3:]))
