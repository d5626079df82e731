"""The places of a host, in each of which one engine process runs after the other."""

import os
import platform
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from ..settings import VLLM, WorkerSettings
from ..supervision.pipe import LaunchEngine
from .backoff import RestartBackoff
from .child_process import ChildProcess
from .engine_child import EngineChild
from .shares import cores_each, engine_environment, gpu_of, gpus, gpus_of_server
from .spare import Spare


@dataclass(slots=True)
class Place:
    """A place in which one engine process runs, and after it the next.

    Attributes:
        child: the one that is running.
        start_at: when to start the next; None if none is due.
        paused: whether no process should run here for now.
        served: whether a process has been ready here, so that an obstacle to the next one may pass.
    """

    index: int
    backoff: RestartBackoff
    child: EngineChild | None = None
    start_at: float | None = 0.0
    started: bool = False
    paused: bool = False
    served: bool = False


@dataclass(frozen=True, slots=True)
class Launcher:
    """Fills places with engine processes.

    Attributes:
        settings: passed to every engine process.
        command: starts an engine process; the number of its end of the pipe is appended.
        metrics_dir: where engine processes keep their metrics; None if metrics aren't served.
    """

    settings: WorkerSettings
    command: Sequence[str]
    metrics_dir: str | None

    @property
    def threads(self) -> int:
        """CPU threads of each engine process."""
        return self.settings.threads or cores_each(self.settings.engines)

    def orders(self, index: int) -> LaunchEngine:
        """The instructions of the next engine process in a place."""
        return LaunchEngine(
            # New with each start: the queue must never take a restarted process for the one that died.
            worker_id=f"worker-{platform.node()}-{os.getpid()}-{index}-{secrets.token_hex(3)}",
            index=index,
            threads=self.threads,
            grace_s=self.settings.drain_s,
            settings=self.settings.model_dump_json(),
            metrics_dir=self.metrics_dir,
            gpu=self._gpu(index),
        )

    def _gpu(self, index: int) -> str | None:
        if self.settings.engine == VLLM and self.settings.device in ("auto", "cuda"):
            return gpus_of_server(index, self.settings.engines, gpus())
        return gpu_of(self.settings.device, index, gpus())

    def start(self, launch: LaunchEngine, spare: Spare, now: float) -> EngineChild:
        """Make the spare the engine process of a place, or start one if there is no spare.

        Raises:
            OSError: the system can't start it.
        """
        process = spare.take()
        prestarted = process is not None
        if process is None:
            process = ChildProcess(self.command, engine_environment(launch.threads, launch.gpu))
        return EngineChild(process, launch, now, prestarted=prestarted)
