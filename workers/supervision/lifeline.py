"""Ties an engine process to its host, so that it ends when the host ends, however that happens.

Three independent signs of the host's death reach the engine process: the end of the pipe (seen by its loop),
SIGTERM from the kernel (prctl), and the host's pidfd (seen by a thread). The first two start the hand-over;
the thread ends the process if the hand-over hangs, so that no orphan ever keeps a GPU.
"""

import ctypes
import os
import select
import signal
import socket
import sys
import threading
import time

import structlog

from .pipe import GPU_VARIABLE, EnginePipe, LaunchEngine

log = structlog.get_logger("headrace.workers.supervision.lifeline")

_PR_SET_PDEATHSIG = 1
_LAUNCH_WAIT_S = 30.0
HUNG = 70
"""Exit status of an engine process whose hand-over hung after its host had ended."""


def join_host(pipe_fd: int) -> tuple[EnginePipe, LaunchEngine]:
    """Take the inherited end of the pipe, tie this process to its host, and receive its instructions.

    Raises:
        SystemExit: the host is gone already.
    """
    os.set_inheritable(pipe_fd, False)  # a child process must not keep the pipe open
    pipe = EnginePipe(socket.socket(fileno=pipe_fd))
    host_pid = os.getppid()
    at_parents_end(signal.SIGTERM)
    host = _pidfd(host_pid)
    launch = _launch(pipe)
    # The kernel doesn't report a host that died before prctl took effect, but its end of the pipe is closed.
    if launch is None or pipe.closed or os.getppid() != host_pid:
        log.warning("host_gone", hint="engine processes are started by `headrace worker` and end with it")
        sys.exit(1)
    if host is not None:
        threading.Thread(
            target=_end_after, args=(host, launch.grace_s), name="headrace-lifeline", daemon=True
        ).start()
    if launch.gpu is not None:  # a spare was started before anybody knew its place
        os.environ[GPU_VARIABLE] = launch.gpu
    return pipe, launch


def _launch(pipe: EnginePipe) -> LaunchEngine | None:
    give_up_at = time.monotonic() + _LAUNCH_WAIT_S
    while not pipe.closed and time.monotonic() < give_up_at:
        message = pipe.receive_one(wait_s=1.0)
        if isinstance(message, LaunchEngine):
            return message
    return None


def at_parents_end(signum: signal.Signals) -> None:
    """Make the kernel send this process a signal when the thread that started it ends."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signum, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")


def _pidfd(pid: int) -> int | None:
    try:
        return os.pidfd_open(pid)
    except OSError:  # a kernel before 5.3, or the host is gone, which the caller will notice
        return None


def _end_after(host: int, grace_s: float) -> None:
    select.select([host], [], [])
    select.select([], [], [], grace_s)
    os._exit(HUNG)
