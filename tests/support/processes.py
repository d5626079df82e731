"""Programs that a test starts: each has a log, and none outlives its block."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headrace import Client, JobHandle

from .forkserver import Forked, Forkserver
from .waiting import WAIT_S, wait_until

ANY_HOST = str(Path(__file__).with_name("any_host.py"))
"""The program that starts a worker with another engine process."""

PACE = "TEST_PACE_S"
"""The environment variable that says how many seconds a step takes at least, in forked workers."""
USUAL_STEP_S = 0.0015


@dataclass(frozen=True, slots=True)
class Running:
    """A program that was started.

    Attributes:
        log: what it writes to its standard streams.
    """

    process: subprocess.Popen[bytes] | Forked
    log: Path

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    @property
    def ended(self) -> bool:
        """Whether it has ended."""
        return self.process.poll() is not None

    def said(self) -> str:
        """What it has written so far."""
        return self.log.read_text(errors="replace")

    def stop(self, signum: int = signal.SIGTERM) -> int:
        """Send it a signal, wait for its end, and return the exit status."""
        self.process.send_signal(signum)
        return self.process.wait(WAIT_S)


@contextmanager
def running(
    *arguments: str,
    log: Path,
    ends_well: bool = False,
    forkserver: Forkserver | None = None,
    python: str = sys.executable,
    **environment: str,
) -> Iterator[Running]:
    """Run `python <arguments>` while the block lasts.

    Args:
        arguments: `-m` and a module, `-c` and a text, or a script; then its own.
        log: where its output goes.
        ends_well: whether SIGTERM at the end of the block must end it with status 0; otherwise it is killed.
        forkserver: where it is forked, with its imports done; otherwise it starts as any program does.
        python: the interpreter that runs it.
        environment: variables beside the test's own.
    """
    launch: Any = forkserver.start if forkserver else subprocess.Popen
    with log.open("wb") as out:
        process = launch([python, *arguments], stdout=out, stderr=out, env={**os.environ, **environment})
    started = Running(process, log)
    try:
        yield started
        if ends_well:
            assert started.stop() == 0, started.said()
    finally:
        process.kill()
        process.wait()


@contextmanager
def headrace(
    *arguments: str, redis_url: str, log: Path, ends_well: bool = False, **environment: str
) -> Iterator[Running]:
    """Run `headrace <arguments>` on a Redis while the block lasts; see `running`."""
    variables: Mapping[str, str] = {"HEADRACE_REDIS_URL": redis_url, **environment}
    with running("-m", "headrace.cli", *arguments, log=log, ends_well=ends_well, **variables) as started:
        yield started


def kill_engine_of(job: JobHandle, client: Client) -> str:
    """kill -9 the engine process that generates a job, and return its worker's id."""

    def found() -> tuple[str, int] | None:
        worker = job.status().worker
        return next(((info.id, info.pid) for info in client.workers() if info.id == worker), None)

    worker, pid = wait_until(found)
    os.kill(pid, signal.SIGKILL)
    return worker


class Restartable:
    """`python <arguments>`, which is killed with -9 and started again; its log grows."""

    def __init__(self, *arguments: str, log: Path, **environment: str) -> None:
        self._command = [sys.executable, *arguments]
        self._log, self._environment = log, {**os.environ, **environment}
        self.start()

    def start(self) -> None:
        """Start it."""
        with self._log.open("ab") as out:
            self._process = subprocess.Popen(self._command, stdout=out, stderr=out, env=self._environment)

    @property
    def ended(self) -> bool:
        """Whether it has ended."""
        return self._process.poll() is not None

    def wait(self) -> int:
        """Wait for its end, and return the exit status."""
        return self._process.wait(WAIT_S)

    def kill(self) -> None:
        """kill -9, and wait until it is gone."""
        self._process.kill()
        self._process.wait()
