"""The engine process's loop: listen to the host, collect answers, step the engine, publish what is new.

Durability rests on this:

- A token leaves this process only through `advance` or `finish`, which carry the job's fence and the offset
  at which they begin.
- The token that ends a job is written by `finish` together with the end, never before.
- A worker that has not reached Redis for a whole lease stops stepping, since its jobs may belong to another
  by now.
"""

import math
import os
import select
import signal
import time
from collections.abc import Mapping

import structlog

from ...engine import EngineProtocol
from ...schemas.errors import BrokerUnavailable
from ...schemas.job import SCHEMA_VERSION
from ...schemas.scripts import ReleaseReason
from ..metrics import Metrics
from ..settings import WorkerSettings
from ..supervision.pipe import Drain, Drained, EnginePipe, Stats, Stop
from .flush import Flush, Queue
from .host_notices import HostNotices
from .link import Link
from .roster import Roster

ADMITTED_TOKENS = 8192
"""About how many prompt tokens are accepted between two steps, because bookkeeping takes time."""

LISTEN_S = 0.02
"""The time between two looks at the pipe while the engine steps, since each releases the interpreter."""

log = structlog.get_logger(__name__)


class Runner:
    """Runs jobs of one model on one engine until told to stop.

    Attributes:
        roster: the jobs on this engine.
    """

    def __init__(
        self,
        settings: WorkerSettings,
        engine: EngineProtocol,
        queue: Queue,
        metrics: Metrics,
        pipe: EnginePipe,
        served_name: str,
    ) -> None:
        self._settings, self._engine, self._queue, self._metrics = settings, engine, queue, metrics
        self._pipe, self._served_name = pipe, served_name
        self.roster = Roster(
            engine, queue.intake.tokenizer, metrics, notices=HostNotices(pipe.send, settings.show_prompts)
        )
        self._link = Link(
            queue, self.roster, settings, metrics, facts=self._facts, wake=self._wake, drain=self._drain
        )
        self._leave_at: float | None = None
        self._listen_at = 0.0
        self._reported = 0.0
        self._stepped = time.monotonic()
        self._checked = True
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        queue.intake.wake = self._wake

    def run(self) -> None:
        """Serve until SIGTERM, a `Drain` or `Stop` from the host, or the host's end; then hand over."""
        signal.signal(signal.SIGTERM, lambda *_: self.stop())
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C is the host's to coordinate
        try:
            while not self._leaving:
                self._listen()
                self._link.collect()
                self._admit()
                stepped = self._step()
                self._link.collect()  # or an exchange that ended meanwhile would delay the next by a step
                self._link.launch()
                self._report()
                if not stepped:
                    self._rest()
            self._hand_over()
        finally:
            self._link.close()
            self._queue.intake.close()
            if not self._link.is_out:
                self._queue.leave()

    def stop(self, finish_s: float = 0.0) -> None:
        """Ask the loop to hand over and return, once its jobs have ended or after `finish_s`.

        Safe in a signal handler.
        """
        leave_at = time.monotonic() + finish_s
        self._leave_at = leave_at if self._leave_at is None else min(leave_at, self._leave_at)
        self._link.closing = True
        self._wake()

    @property
    def _leaving(self) -> bool:
        if self._leave_at is None:
            return False
        nothing_left = not self.roster and (not self._link.busy or self._link.is_out)
        return time.monotonic() >= self._leave_at or nothing_left

    def _drain(self, finish_s: float) -> None:
        """Obey `headrace workers drain`, which every heartbeat repeats."""
        if self._leave_at is None:
            log.info("draining", finish_s=finish_s)
            self.stop(finish_s)

    def _wake(self) -> None:
        try:
            os.write(self._wake_write, b"!")
        except BlockingIOError:  # it has been told already
            return

    def _listen(self) -> None:
        now = time.monotonic()
        if now < self._listen_at:
            return
        self._listen_at = now + LISTEN_S
        for message in self._pipe.receive():
            match message:
                case Drain():
                    log.info("draining", finish_s=message.finish_s)
                    self.stop(message.finish_s)
                case Stop():
                    self.stop()
        if self._pipe.closed:
            log.warning("host_gone")
            self.stop()

    def _admit(self) -> None:
        # A larger prompt is admitted alone; the others wait for the loop's next turn.
        for admission in self._queue.intake.ready(ADMITTED_TOKENS):
            self.roster.admit(admission)

    def _step(self) -> bool:
        # Cut off, every token would be refused: another worker may be continuing these jobs.
        if not self._engine.has_work or self._link.cut_off:
            self._stepped = time.monotonic()
            return False
        started = time.monotonic()
        progress = self._engine.step()
        self._stepped = time.monotonic()
        took_s = self._stepped - started
        for item in progress:
            self.roster.take(item)
        self._metrics.step(took_s, sum(len(item.token_ids) for item in progress))
        self._checked = False
        return True

    def _rest(self) -> None:
        if self._queue.intake.waiting:
            return
        if not self._engine.has_work and not self._checked:
            self._engine.check()  # pages are conserved: cheap to check, and finds a leak where it happens
            self._checked = True
        now = time.monotonic()
        until = min(now + self._settings.heartbeat_s, self._leave_at or math.inf)
        # An exchange in flight wakes this thread itself when it ends.
        if not self._link.busy:
            until = min(until, self._link.next_at())
        ready, _, _ = select.select([self._wake_read, self._pipe.fileno()], [], [], max(0.0, until - now))
        if self._wake_read in ready:
            os.read(self._wake_read, 4096)
        self._listen_at = 0.0

    def _hand_over(self) -> None:
        """Give every job back with its progress; those that can't be within a lease lapse by themselves.

        Jobs taken by a claim whose reply was lost are asked for and given back as well.
        """
        give_up_at = time.monotonic() + self._settings.lease_s
        if (
            self.roster or not self._link.is_out
        ):  # otherwise there is no reason to wait for an unreachable Redis
            self._link.collect(wait_s=None)
        released = len(self.roster.leaving)
        # After a lease the jobs belong to any worker that takes them: there is nothing left to hand over.
        while (self.roster or self._link.claim_lost) and time.monotonic() < give_up_at:
            for running in list(self.roster.active):
                self.roster.give_back(running, ReleaseReason.DRAIN)
                released += 1
            flush = Flush(
                finishes=[running for running in self.roster.jobs.values() if running.ended],
                releases=list(self.roster.leaving.items()),
            )
            try:
                self._link.exchange(flush)
            except BrokerUnavailable as error:
                if not self.roster:  # one try is enough for jobs that may not exist
                    break
                log.warning("hand_over_waits", reason=str(error))
                select.select([], [], [], 0.2)
        self._metrics.engine(self._engine.stats())
        log.info("handed_over", released=released, unreleased=len(self.roster))
        self._pipe.send(Drained(released=released))

    def _facts(self) -> Mapping[str, str | int]:
        """What the worker's heartbeat reports."""
        stats = self._engine.stats()
        capacity = {} if self._link.closing else {"capacity_tokens": self._engine.capacity_tokens}
        return {  # smaller workers don't wait for one that claims no more
            **capacity,
            "model": self._served_name,
            "pages_total": stats.pages_total,
            "pages_free": stats.pages_free,
            "running": stats.running,
            "waiting": stats.waiting,
            "max_batch_size": self._settings.max_batch_size,
            "classes": ",".join(self._settings.classes),
            "fingerprint": self._queue.fingerprint,
            "max_v": SCHEMA_VERSION,
            "pid": os.getpid(),
        }

    def _report(self) -> None:
        now = time.monotonic()
        if now - self._reported < self._settings.heartbeat_s:
            return
        self._reported = now
        stats = self._engine.stats()
        self._metrics.engine(stats)
        self._pipe.send(
            Stats(
                running=stats.running,
                waiting=stats.waiting,
                pages_total=stats.pages_total,
                pages_free=stats.pages_free,
                late={
                    "exchange": self._link.late_s(),
                    "step": now - self._stepped if self._engine.has_work and not self._link.cut_off else 0.0,
                    "intake": self._queue.intake.overdue_s(),
                },
                contact_s=self._link.contact_s(),
                trouble=self._link.trouble,
            )
        )
