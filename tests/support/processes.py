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


END_S = 40.0
"""How long programs may take to end on SIGTERM."""

Launched = subprocess.Popen[bytes] | Forked


def launch(
    *arguments: str,
    log: Path,
    forkserver: Forkserver | None = None,
    cwd: Path | None = None,
    python: str = sys.executable,
    **environment: str,
) -> Launched:
    """Start `python <arguments>`, which somebody else ends.

    Args:
        arguments: `-m` and a module, `-c` and a text, or a script; then its own.
        log: where its output is added.
        forkserver: where it is forked, with its imports done; otherwise it starts as any program does.
        cwd: the folder that it runs in; by default the test's own.
        python: the interpreter that runs it.
        environment: variables beside the test's own.
    """
    start: Any = forkserver.start if forkserver else subprocess.Popen
    with log.open("ab") as out:
        started: Launched = start(
            [python, *arguments], stdout=out, stderr=out, cwd=cwd, env={**os.environ, **environment}
        )
    return started


def end(*processes: Launched) -> None:
    """Send all of them SIGTERM and wait for their ends; what takes too long is killed."""
    for process in processes:
        if process.poll() is None:
            process.terminate()
    for process in processes:
        try:
            process.wait(END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def flags(**options: object) -> list[str]:
    """Options of a command as it takes them: `lease_s=2` is `--lease-s 2`."""
    named = ((f"--{name.replace('_', '-')}", str(value)) for name, value in options.items())
    return [part for pair in named for part in pair]


@dataclass(frozen=True, slots=True)
class Running:
    """A program that was started.

    Attributes:
        log: what it writes to its standard streams.
    """

    process: Launched
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
        arguments: as for `launch`.
        log: where its output goes.
        ends_well: whether SIGTERM at the end of the block must end it with status 0; otherwise it is killed.
        forkserver: as for `launch`.
        python: as for `launch`.
        environment: variables beside the test's own.
    """
    log.unlink(missing_ok=True)
    process = launch(*arguments, log=log, forkserver=forkserver, python=python, **environment)
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
        self._arguments, self._log, self._environment = arguments, log, environment
        self.start()

    def start(self) -> None:
        """Start it."""
        self._process = launch(*self._arguments, log=self._log, **self._environment)

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
