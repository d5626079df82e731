"""One run of the server process.

Invariant: the server never outlives this process, however that ends (even by SIGKILL). The kernel sees to
    this: the server asks for SIGKILL at its parent's death (PR_SET_PDEATHSIG). Two traps are avoided:

- Asking between fork and exec from Python (`preexec_fn`) can deadlock in a threaded process. So a tiny
  launcher asks, and then becomes the server under the same pid.
- To the kernel, the parent is the *thread* that forked. So a dedicated thread starts the server and waits for
  its end, and the server may be started from a thread that ends earlier.

SIGKILL usually costs no acknowledged write: Redis hands its append-only file to the kernel before it replies,
unless the disk is so busy that it postpones this for up to two seconds.
"""

import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import Future
from pathlib import Path
from typing import BinaryIO

from redis import Redis
from redis.exceptions import BusyLoadingError, RedisError

from ...schemas.errors import EmbeddedRedisError
from ...schemas.redis.connection import connect

START_S = 20.0
"""A server that has neither answered nor reported that it is loading its data for this long has failed."""

STOP_S = 10.0

LOCK = "redis.lock"
"""The lock file in a server's folder, which the server holds while it lives."""

_POLL_S = 0.01
_PROBE_S = 0.5
"""Short, because something else may listen on the port and never answer, while our server has long ended."""

_LOG_TAIL_BYTES = 2000

_LAUNCHER = """\
import ctypes, os, signal, sys
PR_SET_PDEATHSIG = 1
ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
if os.getppid() == int(sys.argv[1]):  # a parent that was dead before the request would never be noticed
    os.execv(sys.argv[2], sys.argv[2:])
"""


class ServerProcess:
    """Start a server in `folder`; it isn't known to answer before `wait_ready`.

    Raises:
        EmbeddedRedisError: another server uses the folder, or the process can't be started.
    """

    def __init__(self, binary: Path, folder: Path, log: Path, port: int) -> None:
        self._name = f"{binary} on port {port}"
        self._url = f"redis://127.0.0.1:{port}/0"
        self._log = log
        self._log_start = log.stat().st_size if log.exists() else 0
        started: Future[subprocess.Popen[bytes]] = Future()
        with _lock(folder) as lock, log.open("ab") as out:
            command = [str(binary), *_options(port)]
            # It waits in `process.wait()`, so it ends just after the server does: `alive` is the thread's.
            self._keeper = threading.Thread(
                target=_keep, args=(started, command, folder, lock, out), name="headrace-redis", daemon=True
            )
            self._keeper.start()
            try:
                self._process = started.result()
            except OSError as error:
                raise EmbeddedRedisError(f"can't start {binary}: {error}") from error

    @property
    def alive(self) -> bool:
        return self._keeper.is_alive()

    @property
    def pid(self) -> int:
        return self._process.pid

    def send(self, signum: int) -> None:
        """Send a signal; do nothing if the server has ended."""
        self._process.send_signal(signum)

    def end(self, signum: int) -> None:
        """Send a signal that ends the server and wait for its end; after `STOP_S`, send SIGKILL."""
        self.send(signum)
        self.send(signal.SIGCONT)  # it may have been paused
        self._keeper.join(STOP_S)
        if self.alive:
            self.send(signal.SIGKILL)
            self._keeper.join()

    def wait_ready(self) -> None:
        """Wait until this server itself answers and has loaded its data.

        Raises:
            EmbeddedRedisError: it ended or stayed silent; the message contains the end of its log.
        """
        give_up_at = time.monotonic() + START_S
        with connect(self._url, socket_timeout=_PROBE_S) as probe:
            while self.alive:
                try:
                    if self._answers(probe):
                        return
                # It loads its data, which may take long and is progress.
                except BusyLoadingError:
                    give_up_at = time.monotonic() + START_S
                except RedisError:
                    pass  # not listening yet
                if time.monotonic() > give_up_at:
                    raise EmbeddedRedisError(
                        f"{self._name} has not answered for {START_S:.0f} s: {self._last_words()}"
                    )
                self._keeper.join(_POLL_S)
        raise EmbeddedRedisError(f"{self._name} ended while starting: {self._last_words()}")

    def _answers(self, probe: Redis) -> bool:
        probe.ping()
        # If another server took the port first, ours is about to end and the answer isn't its own.
        return bool(probe.info("server")["process_id"] == self.pid)

    def _last_words(self) -> str:
        with self._log.open("rb") as log:
            size = log.seek(0, os.SEEK_END)
            log.seek(max(self._log_start, size - _LOG_TAIL_BYTES))
            return log.read().decode(errors="replace").strip() or "it wrote no log"


def _keep(
    started: Future[subprocess.Popen[bytes]], command: list[str], folder: Path, lock: BinaryIO, out: BinaryIO
) -> None:
    launcher = [sys.executable, "-I", "-S", "-c", _LAUNCHER, str(os.getpid())]
    try:
        process = subprocess.Popen(
            [*launcher, *command],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            pass_fds=[lock.fileno()],
            start_new_session=True,  # Ctrl-C is for us: the server must outlive the hand-over
        )
    except OSError as error:
        started.set_exception(error)
        return
    started.set_result(process)
    process.wait()


def _lock(folder: Path) -> BinaryIO:
    """Take the folder's lock, which the server inherits and so holds while it lives."""
    lock = (folder / LOCK).open("wb")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        raise EmbeddedRedisError(f"{folder} is in use by another embedded Redis") from None
    return lock


def _options(port: int) -> list[str]:
    return [
        *("--bind", "127.0.0.1", "--port", str(port), "--protected-mode", "yes"),
        *("--appendonly", "yes", "--appendfsync", "everysec", "--save", ""),
        *("--maxmemory-policy", "noeviction", "--daemonize", "no"),
    ]
