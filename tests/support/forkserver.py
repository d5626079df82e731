"""Processes that start in a tenth of a second: forked from one that has imported all that they need.

    a test ──order──▶ server ──fork──▶ process, a child of the test's
                                          └──order──▶ a server of its own ──fork──▶ its engine process, …

Such a process is what `python -m <module>` or `python <script>` would be: arguments, environment, folder,
streams, process group and parent are as asked for, and only its imports have been done before. What it starts
with `subprocess.Popen` in one of these ways is forked too, unless it is given options of Python's own.

A process is forked twice, from the server and from a child of it that ends at once: the second is then an
orphan, which the kernel gives to whoever asked for it (a "child subreaper" for that moment).
"""

import atexit
import ctypes
import fcntl
import gc
import importlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NoReturn

ROOT = Path(__file__).parents[2]
HELPER = "fork helper"
"""The name of the servers that forked processes have of their own, among their children."""

_PR_SET_NAME, _PR_SET_CHILD_SUBREAPER = 15, 36
_MOST_BYTES = 1 << 20
_FIRST_FREE_FD = 200
_STREAMS = 3
_LIBC = ctypes.CDLL(None, use_errno=True)
_POPEN = subprocess.Popen

Stream = int | IO[Any] | None


class Forked:
    """A process that was forked; to be used as a `subprocess.Popen` is."""

    stdin = stdout = stderr = None

    def __init__(self, pid: int, args: Sequence[str]) -> None:
        self.pid, self.args = pid, args
        self.returncode: int | None = None
        self._lock = threading.Lock()

    def poll(self) -> int | None:
        """Its exit status, minus the signal that killed it; None while it runs."""
        with self._lock:
            if self.returncode is None:
                try:
                    pid, status = os.waitpid(self.pid, os.WNOHANG)
                except ChildProcessError:  # somebody else has waited for it
                    pid, status = self.pid, 0
                if pid:
                    self.returncode = os.waitstatus_to_exitcode(status)
            return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Its exit status once it has ended; raises subprocess.TimeoutExpired."""
        give_up_at = None if timeout is None else time.monotonic() + timeout
        pause_s = 0.0005
        while (status := self.poll()) is None:
            if give_up_at is not None and timeout is not None and time.monotonic() > give_up_at:
                raise subprocess.TimeoutExpired(list(self.args), timeout)
            pause_s = min(2 * pause_s, 0.02)
            time.sleep(pause_s)
        return status

    def send_signal(self, signum: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, signum)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)


class Forkserver:
    """Starts processes by having them forked.

    Args:
        preload: the modules that they will import.
    """

    def __init__(self, preload: Iterable[str]) -> None:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.support.forkserver", str(theirs.fileno()), *preload],
                pass_fds=[theirs.fileno()],
                cwd=ROOT,
                env=os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"},
            )
        self.start = _Client(self._control).start

    def close(self) -> None:
        """End the server; processes that it has forked live on."""
        self._control.close()
        self._process.wait()


class _Client:
    """The side that orders."""

    def __init__(self, control: socket.socket) -> None:
        self._control, self._lock = control, threading.Lock()

    def start(
        self,
        command: Sequence[str],
        *,
        stdin: Stream = None,
        stdout: Stream = None,
        stderr: Stream = None,
        env: Mapping[str, str] | None = None,
        cwd: str | Path | None = None,
        pass_fds: Sequence[int] = (),
        process_group: int | None = None,
    ) -> Forked:
        """As `subprocess.Popen`; the command is `python -m <module> …` or `python <script> …`."""
        order = {
            "args": list(map(str, command[1:])),
            "env": dict(os.environ if env is None else env),
            "cwd": str(cwd or Path.cwd()),
            "pass_fds": list(pass_fds),
            "process_group": process_group,
        }
        null = os.open(os.devnull, os.O_RDWR)
        try:
            given = [_fd(stream, own, null) for own, stream in enumerate((stdin, stdout, stderr))]
            with self._lock:
                _be_subreaper(True)
                try:
                    socket.send_fds(self._control, [json.dumps(order).encode()], [*given, *pass_fds])
                    answer = self._control.recv(64)
                finally:
                    _be_subreaper(False)
        finally:
            os.close(null)
        if not answer:
            raise ChildProcessError("the fork server has ended; what it wrote says why")
        return Forked(int(answer), list(command))


def _fd(stream: Stream, own: int, null: int) -> int:
    if stream is None:
        return own
    if stream == subprocess.DEVNULL:
        return null
    return stream if isinstance(stream, int) else stream.fileno()


def _be_subreaper(yes: bool) -> None:
    if _LIBC.prctl(_PR_SET_CHILD_SUBREAPER, int(yes), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def _serve(control: socket.socket) -> dict[str, Any] | None:
    """Fork a process for each order, until nobody is left to order; in the process, return the order."""
    while True:
        message, fds, _, _ = socket.recv_fds(control, _MOST_BYTES, 64)
        if not message:
            return None
        told, telling = os.pipe()
        between = os.fork()
        if between == 0:
            me, pid = os.getpid(), os.fork()
            if pid == 0:
                while os.getppid() == me:
                    time.sleep(0.0002)
                control.detach()
                order: dict[str, Any] = json.loads(message)
                _take(fds, [*range(_STREAMS), *order["pass_fds"]])
                return order
            os.write(telling, str(pid).encode())
            os._exit(0)
        os.waitpid(between, 0)
        control.send(os.read(told, 64))
        for fd in (told, telling, *fds):
            os.close(fd)


def _take(fds: Sequence[int], places: Sequence[int]) -> None:
    """Put the descriptors in their places, and close all others."""
    kept = [fcntl.fcntl(fd, fcntl.F_DUPFD, _FIRST_FREE_FD) for fd in fds]
    os.closerange(_STREAMS, _FIRST_FREE_FD)
    for fd, place in zip(kept, places, strict=True):
        os.dup2(fd, place)
        os.close(fd)


def _be(order: Mapping[str, Any]) -> None:
    """Be the process that was ordered, or one that it orders; it ends as Python does."""
    forked: Mapping[str, Any] | None = order
    while forked is not None:
        order = forked
        if order["process_group"] is not None:
            os.setpgid(0, order["process_group"])
        os.environ.clear()
        os.environ.update(order["env"])
        os.chdir(order["cwd"])
        _extend_path(os.environ.get("PYTHONPATH", ""))
        forked = _fork_what_is_started(order["pass_fds"])
    try:
        _run(order["args"], order["cwd"])
        status = 0
    except SystemExit as end:
        if end.code is not None and not isinstance(end.code, int):
            raise
        status = end.code or 0
    _end(status)


def _extend_path(folders: str) -> None:
    """Search modules where `PYTHONPATH` says too, and run a `sitecustomize` that is there."""
    new = [folder for folder in folders.split(os.pathsep) if folder and folder not in sys.path]
    sys.path[1:1] = new
    if any(Path(folder, "sitecustomize.py").exists() for folder in new):
        sys.modules.pop("sitecustomize", None)
        importlib.import_module("sitecustomize")


def _run(args: Sequence[str], folder: str) -> None:
    if args[0] == "-m":
        sys.path[0], sys.argv[:] = folder, args[1:]
        if not hasattr(sys.modules.get(args[1]), "__path__"):
            sys.modules.pop(args[1], None)  # it is __main__ from now on, as it would be
        runpy.run_module(args[1], run_name="__main__", alter_sys=True)
    else:
        sys.path[0], sys.argv[:] = str(Path(args[0]).parent), args
        runpy.run_path(args[0], run_name="__main__")


def _end(status: int) -> NoReturn:
    """End as Python does, but leave its memory to the kernel: taking all modules apart would copy them."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _fork_what_is_started(inherited: Sequence[int]) -> dict[str, Any] | None:
    """Have `subprocess.Popen` fork Python programs, from a copy of this process as it is now.

    In a process that was forked so: what it was ordered to be.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if os.fork() == 0:
        ours.close()
        for fd in inherited:
            os.close(fd)
        return _help(theirs)
    theirs.close()
    popen, client = _POPEN, _Client(ours)

    class Popen(popen):  # type: ignore[misc, valid-type]
        def __new__(cls, command: Any, *args: Any, **options: Any) -> Any:
            python = isinstance(command, (list, tuple)) and command[0] == sys.executable
            if not python or args or (command[1].startswith("-") and command[1] != "-m"):
                return super().__new__(cls)
            return client.start(command, **options)

    subprocess.Popen = Popen  # type: ignore[assignment, misc]
    return None


def _help(control: socket.socket) -> dict[str, Any] | None:
    _LIBC.prctl(_PR_SET_NAME, HELPER.encode(), 0, 0, 0)
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, signal.SIG_IGN)
    order = _serve(control)
    if order is None:
        os._exit(0)
    _LIBC.prctl(_PR_SET_NAME, b"python", 0, 0, 0)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    return order


def main() -> None:
    """Serve the process on the other end of the socket; or, in a process forked here, be what was ordered."""
    control = socket.socket(fileno=int(sys.argv[1]))
    gc.disable()
    for module in sys.argv[2:]:
        importlib.import_module(module)
    gc.collect()
    gc.freeze()  # or every process goes through all that this one has loaded
    gc.enable()
    order = _serve(control)
    if order is not None:
        _be(order)


if __name__ == "__main__":
    main()
