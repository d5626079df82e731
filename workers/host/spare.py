"""The spare: an engine process in reserve, with its imports done, that takes the place of one that ended.

It has no model, so it isn't a worker: it is in no list, holds no page and no GPU, and nobody waits for it. It
is started when all engines are ready, with the lowest priority, and killed when engines are told to end. The
engines don't wait until it is gone: on a busy machine that may take a while.

    (none) ──► importing ──► ready ──► taken: it becomes an engine process, and there is none
       ▲            └──────────┴─► ended: the next one is started after a wait
       └───────────────────────────────────┘
"""

import selectors
import signal
import sys
import time
from collections.abc import Sequence
from enum import StrEnum

import structlog

from ..settings import WorkerSettings
from ..supervision.pipe import Imported
from .backoff import RestartBackoff
from .child_process import ChildProcess
from .memory import available_bytes
from .shares import engine_environment

LEAST_BYTES = 1 << 30
"""Memory that must be available for a spare to be started: several times what it takes."""

LOOK_AGAIN_S = 60.0
"""How long a host with less waits before it looks again."""

WRAPPER = ("-m", "headrace.workers.engine_process.prestarted")

log = structlog.get_logger(__name__)


class SpareState(StrEnum):
    """What a host's spare is doing."""

    NONE = "none"
    IMPORTING = "importing"
    READY = "ready"


class Spare:
    """Keeps one engine process in reserve. For the supervisor's thread.

    Args:
        settings: `spare_engine` says whether there is one at all.
        command: starts an engine process.
        threads: of an engine process.
        selector: where its signs are registered, with this object.
        backoff: when to start the next one if it dies.

    Attributes:
        start_at: the earliest time for the next one.
    """

    def __init__(
        self,
        settings: WorkerSettings,
        command: Sequence[str],
        threads: int,
        selector: selectors.BaseSelector,
        backoff: RestartBackoff,
    ) -> None:
        self._wanted = settings.spare_engine and command[0] == sys.executable
        self._command = [command[0], *WRAPPER, *command[1:]]
        self._threads, self._selector, self._backoff = threads, selector, backoff
        self._process: ChildProcess | None = None
        self._started_at = 0.0
        self._imported = self._ending = False
        self._told_of_memory = False
        self.start_at = 0.0

    @property
    def state(self) -> SpareState:
        """What it is doing."""
        if self._process is None or self._ending:
            return SpareState.NONE
        return SpareState.READY if self._imported else SpareState.IMPORTING

    @property
    def pid(self) -> int | None:
        """Its process id; None if there is none."""
        process = self._process  # other threads ask too
        return None if process is None or self._ending else process.pid

    @property
    def missing(self) -> bool:
        """Whether one should be started, at `start_at`, once all engines are ready."""
        return self._wanted and self._process is None

    def start(self, now: float) -> None:
        """Start one, unless memory is short; call it if one is missing and its time has come."""
        free = available_bytes()
        if free is not None and free < LEAST_BYTES:
            self.start_at = now + LOOK_AGAIN_S
            if not self._told_of_memory:
                log.info("spare_not_started", reason=f"only {free >> 20} MiB of memory are available")
            self._told_of_memory = True
            return
        try:
            self._process = ChildProcess(self._command, engine_environment(self._threads))
        except OSError as error:
            self.start_at = now + self._backoff.died(now, 0.0)
            log.warning("spare_not_started", reason=str(error))
            return
        self._started_at, self._told_of_memory = now, False
        for sign in self._process.signs:
            self._selector.register(sign, selectors.EVENT_READ, self)
        log.debug("spare_started", pid=self._process.pid)

    def attend(self) -> None:
        """Look at what it has sent, or whether it has ended."""
        process = self._process
        if process is None:
            return
        now = time.monotonic()
        if any(isinstance(message, Imported) for message in process.pipe.receive()) and not self._ending:
            self._imported = True
            log.info("spare_ready", pid=process.pid, took_s=round(now - self._started_at, 3))
        if process.ended or process.pipe.closed:
            was_ending = self._ending
            self._release(process)
            process.kill()
            status = process.reap()
            if was_ending:
                return
            wait_s = self._backoff.died(now, now - self._started_at)
            self.start_at = now + wait_s
            # Whoever stops a whole service ends it too, before the host is told.
            say = log.info if status == -signal.SIGTERM else log.warning
            say("spare_died", pid=process.pid, status=status, restart_in_s=wait_s)

    def take(self) -> ChildProcess | None:
        """The process, for whoever gives it instructions; None if none is ready."""
        process = self._process
        if process is None or not self._imported or process.ended:
            return None
        self._release(process)
        return process

    def end(self) -> None:
        """Kill it, since it has nothing to hand over; `attend` sees that it is gone."""
        if self._process is not None:
            self._imported, self._ending = False, True
            self._process.kill()

    def close(self) -> None:
        """Kill it, and wait until it is gone."""
        process = self._process
        if process is not None:
            self._release(process)
            process.kill()
            process.reap()

    def _release(self, process: ChildProcess) -> None:
        for sign in process.signs:
            self._selector.unregister(sign)
        # First: another thread may ask as soon as there is the next process, which has imported nothing.
        self._imported = False
        self._process = None
        self._ending = False
