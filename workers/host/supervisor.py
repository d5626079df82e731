"""Keeps a host's engine processes running, and stops them in order.

One thread waits for every pipe, every process and every deadline at once. Others that want something (a
signal handler, the Celery worker) set a flag and wake it; nothing else is shared. This thread also starts the
engine processes, because the kernel's parent-death signal follows the thread: should it ever die, its engine
processes hand over and end instead of running unsupervised.

    started ──► starting ──► ready ──► ended ──► (waits) ──► started …
                                         └─► draining: only `resume` starts it again
"""

import os
import selectors
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from enum import IntEnum

import structlog

from ..metrics import HostMetrics, engine_place, forget
from ..settings import WorkerSettings
from ..supervision.lifeline import HUNG
from ..supervision.pipe import (
    Drain,
    Drained,
    Fatal,
    FromEngine,
    JobLeft,
    JobStarted,
    Ready,
    Stop,
)
from .backoff import RestartBackoff, RestartPolicy
from .engine_child import EngineChild
from .facts import kv_stats, stats_fields
from .places import Launcher, Place
from .spare import Spare, SpareState

COLD_S = 1.0
"""From `Stop` to SIGKILL: enough for one flush to Redis."""

log = structlog.get_logger(__name__)


class Phase(IntEnum):
    """The supervisor's stage, which only ever rises."""

    RUN = 0
    DRAIN = 1
    COLD = 2


class Supervisor:
    """Runs `settings.engines` engine processes until told to stop, or until one can't run where none has.

    The callbacks are called from the supervisor's thread.

    Args:
        settings: passed to every engine process.
        command: starts an engine process; the number of its end of the pipe is appended.
        metrics: counts starts and deaths.
        metrics_dir: where engine processes keep their metrics; None if metrics aren't served.
        on_death: called with the id and exit status of an engine process that ended without having handed its
            jobs over.
        on_job: called with an engine process's id and its notice about a job.
        on_engine: called with an event about an engine process, its id, and facts.
        on_end: called with the exit status, once every engine process has ended.
        policy: when to restart.
    """

    def __init__(
        self,
        settings: WorkerSettings,
        command: Sequence[str],
        metrics: HostMetrics,
        *,
        metrics_dir: str | None = None,
        on_death: Callable[[str, int], None] = lambda *_: None,
        on_job: Callable[[str, JobStarted | JobLeft], None] = lambda *_: None,
        on_engine: Callable[..., None] = lambda *_, **__: None,
        on_end: Callable[[int], None],
        policy: RestartPolicy | None = None,
    ) -> None:
        self._settings, self._metrics = settings, metrics
        self._metrics_dir, self._on_death, self._on_end = metrics_dir, on_death, on_end
        self._on_job, self._on_engine = on_job, on_engine
        self._policy = policy = policy or RestartPolicy()
        self._places = [Place(index, RestartBackoff(policy)) for index in range(settings.engines)]
        self._selector = selectors.DefaultSelector()
        self._launcher = Launcher(settings, command, metrics_dir)
        self._spare = Spare(settings, command, self._launcher.threads, self._selector, RestartBackoff(policy))
        self._bell_read, self._bell_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._selector.register(self._bell_read, selectors.EVENT_READ)
        # Flags are set by other threads and read by the supervisor's own: each is written whole, and the bell
        # that follows makes it look.
        self._asked = self._phase = Phase.RUN
        self._pause_asked: float | None = None
        self._paused = False
        self._failed = False
        self._turns: deque[threading.Event] = deque()
        self._thread = threading.Thread(target=self._run, name="headrace-supervisor", daemon=True)

    # For other threads and signal handlers -----------------------------------------------------------------

    def start(self) -> None:
        """Start the engine processes."""
        self._thread.start()

    def drain(self) -> None:
        """Make every engine process hand over its jobs and end; returns at once. Safe in a signal handler."""
        self._ask(Phase.DRAIN)

    def kill(self) -> None:
        """End every engine process within a second; returns at once. Safe in a signal handler."""
        self._ask(Phase.COLD)

    def pause(self, finish_s: float = 0.0) -> str:
        """Make every engine process end as `drain` does, but keep the host running; return its state."""
        self._pause_asked = finish_s
        self._ring()
        return "draining"

    def resume(self) -> str:
        """Start engine processes again after `pause`; return the host's state."""
        self._pause_asked = None
        self._ring()
        return "running"

    @property
    def draining(self) -> bool:
        """Whether the supervisor has been told to stop."""
        return self._asked is not Phase.RUN

    def join(self) -> None:
        """Wait until every engine process has ended."""
        if self._thread.ident is not None:
            self._thread.join()

    def turns(self, within_s: float) -> bool:
        """Whether the supervisor's loop makes a turn within this time."""
        turned = threading.Event()
        self._turns.append(turned)
        self._ring()
        return turned.wait(within_s)

    @property
    def places(self) -> Sequence[Place]:
        """The places of its engine processes, for reading only."""
        return self._places

    def info(self) -> dict[str, str | int]:
        """What is known about the engine processes, as flat fields for `celery inspect stats`."""
        return {
            "engines": len(self._places),
            "draining": int(self.draining),
            "paused": int(self._pause_asked is not None),
            "spare": self._spare.state.value,
            "spare_pid": self._spare.pid or 0,
            **stats_fields(self._places),
        }

    def kv_stats(self) -> list[dict[str, str | int]]:
        """KV pages and jobs of each engine process, as last reported."""
        return kv_stats(self._living)

    def _ask(self, phase: Phase) -> None:
        self._asked = max(self._asked, phase)
        self._ring()

    def _ring(self) -> None:
        try:
            os.write(self._bell_write, b"!")
        except BlockingIOError:  # it has been woken already
            return

    # The supervisor's own thread ---------------------------------------------------------------------------

    @property
    def _living(self) -> list[EngineChild]:
        return [place.child for place in self._places if place.child is not None]

    @property
    def _has_places(self) -> bool:
        """Whether any place's engine process was not drained for good."""
        return any(place.start_at is not None or place.paused for place in self._places)

    def _run(self) -> None:
        status = 1
        try:
            self._do_what_is_due()
            while self._living or (self._phase is Phase.RUN and self._has_places):
                # Without a deadline it sleeps until a pipe, a process or the bell has something.
                for key, _ in self._selector.select(self._wait_s()):
                    self._attend(key.data)
                self._do_what_is_due()
            status = int(self._failed)
        except Exception:
            log.exception("supervisor_failed")  # and with it the host, which exits with this status
        finally:
            for child in self._living:
                child.kill()
            self._spare.close()
            self._selector.close()
            self._on_end(status)

    def _wait_s(self) -> float | None:
        times = [place.start_at for place in self._places] + [child.end_by for child in self._living]
        # When a child would count as wedged if nothing is heard of it until then.
        times += [at for child in self._living for at in child.looks_at(self._settings)]
        if self._spare_is_due:
            times.append(self._spare.start_at)
        due = [at for at in times if at is not None]
        return max(0.0, min(due) - time.monotonic()) if due else None

    def _do_what_is_due(self) -> None:
        now = time.monotonic()
        if self._asked > self._phase:
            self._phase = self._asked
            self._say_stop(now)
        # Compared with what is wanted, not told by an event: a pause and a resume between two looks cancel.
        if self._phase is Phase.RUN and self._paused != (self._pause_asked is not None):
            self._pause(now) if self._pause_asked is not None else self._resume(now)
        for child in self._living:
            if child.end_by is not None and child.end_by <= now:
                log.warning("engine_killed", engine=child.launch.worker_id, reason="it did not end in time")
                child.end_by = None
                child.kill()
            child.look(now, self._settings)
        for place in self._places:
            if place.start_at is not None and place.start_at <= now:
                self._start(place, now)
        if self._spare_is_due and self._spare.start_at <= now:
            self._spare.start(now)

    @property
    def _spare_is_due(self) -> bool:
        """Whether a spare is missing and no engine process is starting or ending, or about to."""
        calm = all(child.ready is not None and child.end_by is None for child in self._living)
        return (
            self._spare.missing
            and self._phase is Phase.RUN
            and not self._failed
            and bool(self._living)
            and calm
            and not any(place.start_at is not None for place in self._places)
        )

    def _say_stop(self, now: float) -> None:
        cold = self._phase is Phase.COLD
        # First its jobs may end, then it may hand over.
        grace_s = COLD_S if cold else self._settings.finish_s + self._settings.drain_s
        log.info("stopping", cold=cold, engines=len(self._living), grace_s=grace_s)
        for place in self._places:
            place.start_at = None
        for child in self._living:
            child.leave(Stop() if cold else Drain(self._settings.finish_s), now + grace_s)
        self._spare.end()

    def _pause(self, now: float) -> None:
        self._paused, finish_s = True, self._pause_asked or 0.0
        log.info("pausing", engines=len(self._living), finish_s=finish_s)
        for place in self._places:
            place.start_at, place.paused = None, True
        for child in self._living:
            child.paused = True
            child.leave(Drain(finish_s), now + finish_s + self._settings.drain_s)
        self._spare.end()

    def _resume(self, now: float) -> None:
        self._paused = False
        log.info("resuming")
        for place in self._places:
            place.start_at, place.paused = (now if place.child is None else None), False

    def _start(self, place: Place, now: float) -> None:
        launch = self._launcher.orders(place.index)
        if place.started:
            self._metrics.restarted()
        place.started, place.start_at = True, None
        try:
            place.child = child = self._launcher.start(launch, self._spare, now)
        except OSError as error:
            place.start_at = now + place.backoff.died(now, 0.0)
            log.error("engine_not_started", engine=launch.worker_id, reason=str(error))
            return
        for sign in child.signs:
            self._selector.register(sign, selectors.EVENT_READ, place)
        log.info(
            "engine_started",
            engine=launch.worker_id,
            pid=child.pid,
            threads=launch.threads,
            prestarted=child.prestarted,
        )

    def _attend(self, place: Place | Spare | None) -> None:
        if isinstance(place, Spare):
            place.attend()
            return
        if place is None:
            os.read(self._bell_read, 4096)
            while self._turns:
                self._turns.popleft().set()
            return
        child = place.child
        if child is None:  # a process's end shows in two ways
            return
        for message in child.listen(time.monotonic()):
            self._note(place, child, message)
        if child.pipe.closed and child.pipe in child.signs:
            self._selector.unregister(child.pipe)
            child.hang_up(time.monotonic())
        if child.ended or not child.signs:
            self._bury(place, child)

    def _note(self, place: Place, child: EngineChild, message: FromEngine) -> None:
        engine = child.launch.worker_id
        match message:
            case Ready():
                place.served = True
                log.info(
                    "engine_ready",
                    engine=engine,
                    model=message.model,
                    pages=message.pages_total,
                    context_tokens=message.context_tokens,
                    took_s=round(time.monotonic() - child.started_at, 3),
                )
                self._count()
                self._on_engine("engine-ready", engine, model=message.served_name)
            case JobStarted() | JobLeft():
                self._on_job(engine, message)
            case Drained():
                log.info("engine_drained", engine=engine, released=message.released)
            case Fatal() if not self._failed:
                log.error("engine_cannot_run", engine=engine, reason=message.reason)
                if not place.served:  # otherwise try again: the others have jobs, and memory may become free
                    self._failed = True
                    self.drain()

    def _bury(self, place: Place, child: EngineChild) -> None:
        for sign in child.signs:
            self._selector.unregister(sign)
        status = child.reap()
        place.child = None
        # Not of one that was told to end while it was loading: it had no jobs to lose.
        if status != 0 and not (child.ready is None and child.end_by is not None):
            self._on_death(child.launch.worker_id, HUNG if child.wedged else status)
        if self._metrics_dir is not None:
            forget(self._metrics_dir, engine_place(place.index))
        # It ended because it was asked to, by this host or by `headrace workers drain`: no restart.
        handed_over = status == 0 and child.drained
        if self._phase is Phase.RUN and not self._failed and not place.paused and not handed_over:
            self._plan_restart(place, child, status)
        else:
            log.info("engine_ended", engine=child.launch.worker_id, status=status)
            self._on_engine("engine-ended", child.launch.worker_id, status=status)
            if handed_over and child.paused and not place.paused and self._phase is Phase.RUN:
                place.start_at = time.monotonic()  # resumed before it had ended
        self._count()

    def _plan_restart(self, place: Place, child: EngineChild, status: int) -> None:
        now = time.monotonic()
        wait_s = place.backoff.died(now, now - child.started_at, explained=child.death_is_explained)
        # Without a wait it is no loop: there is a spare again only after all engines have been ready.
        at_once = self._spare.state is SpareState.READY and wait_s <= self._policy.first_s
        if at_once:
            wait_s = 0.0
        place.start_at = now + wait_s
        engine = child.launch.worker_id
        log.warning("engine_died", engine=engine, status=status, restart_in_s=wait_s)
        self._on_engine("engine-died", engine, status=status, restart_in_s=wait_s)
        if at_once:
            self._start(place, now)
        if place.backoff.crash_looping(now):
            log.error(
                "engine_crash_loop",
                engine=engine,
                reason="it keeps dying; the log lines before each death say why. Still trying.",
                restart_in_s=wait_s,
            )
            self._on_engine("engine-crash-loop", engine, restart_in_s=wait_s)

    def _count(self) -> None:
        now = time.monotonic()
        self._metrics.engines(
            ready=sum(child.ready is not None for child in self._living),
            crash_looping=sum(place.backoff.crash_looping(now) for place in self._places),
        )
