"""One incarnation of an engine process, as its host sees it."""

import math
import signal

import structlog

from ...schemas.events import JobState
from ...schemas.scripts import ReleaseReason
from ..settings import WorkerSettings
from ..supervision.pipe import (
    Drain,
    Drained,
    Fatal,
    FromEngine,
    HostPipe,
    JobLeft,
    JobStarted,
    LaunchEngine,
    Ready,
    Starting,
    Stats,
    Stop,
    ToEngine,
)
from .child_process import EXIT_S, ChildProcess

STARTING_S = 30.0
"""How often a slow start is logged."""

SERVED = {JobState.SUCCEEDED.value, ReleaseReason.TRIAL.value}
"""How jobs leave an engine process that is able to run them."""

log = structlog.get_logger(__name__)


class EngineChild:
    """A process with its instructions, which it is sent.

    Attributes:
        launch: its instructions.
        prestarted: whether it was the spare.
        started_at: when it was given its instructions, by the supervisor's clock.
        heard_at: when it last sent something, by the supervisor's clock.
        noted_at: when its host last logged that it is still starting.
        loads_since: when it began to load its model: after the download, as far as is known.
        download: how far the download of its model has come, in words.
        wedged: whether it was killed for making no progress.
        end_by: when it is killed if it has not ended; None if it isn't supposed to end.
        jobs: the jobs running there, as far as it has reported.
        has_served: whether a job has ended there, or a trial there has gone far enough.
        ready, stats, fatal: its last message of that kind.
        drained: whether it has handed its jobs over.
        paused: whether it was told to, for a pause of its host.
    """

    def __init__(
        self, process: ChildProcess, launch: LaunchEngine, now: float, *, prestarted: bool = False
    ) -> None:
        self._process, self.prestarted = process, prestarted
        self.launch, self.started_at, self.heard_at, self.noted_at = launch, now, now, now
        self.loads_since, self.download = now, ""
        self.wedged = False
        self.drained = self.paused = False
        self.end_by: float | None = None
        self.ready: Ready | None = None
        self.stats: Stats | None = None
        self.fatal: Fatal | None = None
        self.jobs: set[str] = set()
        self.has_served = False
        self.say(launch)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def pipe(self) -> HostPipe:
        """The host's end of the pipe to it."""
        return self._process.pipe

    @property
    def signs(self) -> list[HostPipe | int]:
        """File descriptors that become readable when it sends something or ends."""
        return self._process.signs

    @property
    def state(self) -> str:
        """`starting` or `ready`."""
        return "ready" if self.ready else "starting"

    @property
    def _has_not_answered(self) -> bool:
        """Whether it was the spare and has been silent since: a spare may have been stopped unnoticed."""
        return self.prestarted and self.heard_at == self.started_at

    @property
    def death_is_explained(self) -> bool:
        """Whether its death says nothing against the place where it ran (see `RestartBackoff.died`)."""
        return self.has_served or len(self.jobs) == 1

    @property
    def ended(self) -> bool:
        """Whether the process has ended."""
        return self._process.ended

    def say(self, message: ToEngine) -> None:
        """Send it a message, which is dropped if it is gone."""
        self.pipe.send(message)

    def listen(self, now: float) -> list[FromEngine]:
        """Its messages since the last call."""
        said = self.pipe.receive()
        if said:
            self.heard_at = now
        for message in said:
            match message:
                case Starting(download) if download:
                    self.loads_since, self.download = now, download
                case Ready():
                    self.ready = message
                case Stats():
                    self.stats = message
                case Fatal():
                    self.fatal = message
                case Drained():
                    self.drained = True
                case JobStarted():
                    self.jobs.add(message.job_id)
                case JobLeft():
                    self.jobs.discard(message.job_id)
                    self.has_served = self.has_served or message.how in SERVED
        return said

    def looks_at(self, settings: WorkerSettings) -> list[float]:
        """When `look` next has something to do, as far as is known now."""
        if self.wedged or self.pipe.closed:
            return []
        if self.ready is None:
            ends = [self.loads_since + settings.start_s, self.noted_at + STARTING_S]
            return [*ends, self.started_at + settings.wedged_s] if self._has_not_answered else ends
        return [self.heard_at + settings.wedged_s]

    def look(self, now: float, settings: WorkerSettings) -> None:
        """Kill it if it has made no progress for too long; log a slow start."""
        if self.wedged or self.pipe.closed:
            return
        took_s, silent_s = now - self.started_at, now - self.heard_at
        about = {"engine": self.launch.worker_id, "model": settings.model}
        late = {"silent": silent_s} | (self.stats.late if self.stats else {})
        if self.ready is not None and max(late.values()) >= settings.wedged_s:
            log.error("engine_wedged", **about, **{f"{what}_s": round(s, 1) for what, s in late.items()})
        elif self._has_not_answered and took_s >= settings.wedged_s:
            log.error("engine_wedged", **about, silent_s=round(took_s, 1))
        elif self.ready is None and now - self.loads_since >= settings.start_s:
            reason = (
                f"its model has not loaded within start_s={settings.start_s:g}: is everything in its folder "
                "a file, and does its disk or network respond?"
            )
            log.error("engine_start_too_long", **about, reason=reason)
        else:
            if self.ready is None and now >= self.noted_at + STARTING_S:
                self.noted_at = now
                download = {"download": self.download} if self.download else {}
                log.info("engine_starting", **about, took_s=round(took_s), **download)
            return
        self.wedged = True
        self.kill()

    def leave(self, message: Drain | Stop, end_by: float) -> None:
        """Make it end by then, or at once if it isn't ready: it has no jobs to hand over."""
        self.end_by = end_by
        if self.ready is None:
            self.kill(signal.SIGTERM)
        self.say(message)

    def hang_up(self, now: float) -> None:
        """Note that its pipe has ended, so that only its exit remains to be seen."""
        self._process.hang_up()
        self.end_by = min(now + EXIT_S, self.end_by or math.inf)

    def kill(self, signum: int = signal.SIGKILL) -> None:
        """Send a signal to it and to the processes that it has started."""
        self._process.kill(signum)

    def reap(self) -> int:
        """Wait for its exit status (minus the signal that killed it), and kill it if it takes too long."""
        return self._process.reap()
