"""Kills an engine (`kill -9`) while it runs jobs, and shows what becomes of them."""

import asyncio
import os
import signal
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from ...producers.async_client import AsyncJobHandle
from ...schemas.events import JobResult, JobState, JobStatus
from .over_http import HttpStream
from .pace import Pace
from .scene import EngineView, Scene, StreamView
from .screen import Screen

_LOOK_S = 0.02


@dataclass(slots=True)
class Kill:
    """An engine that was killed, and the jobs that it was running."""

    engine: EngineView
    held: set[str]

    def resumed(self, results: list[JobResult]) -> int:
        """How many of its jobs another engine has completed."""
        others = (result for result in results if result.worker != self.engine.name)
        return sum(result.state is JobState.SUCCEEDED and result.job_id in self.held for result in others)


async def kill_one(
    scene: Scene,
    shown: Screen,
    host_pid: int,
    streams: list[AsyncJobHandle],
    background: list[AsyncJobHandle],
    http: HttpStream | None = None,
) -> Kill | None:
    """Kill an engine of this host while it runs streams that are far from their end.

    The gateway that one of them is read from is killed with it.

    Returns once another engine has continued all of its streams and there was time to see it; None if no
    such moment came.
    """
    pace, announced, own = shown.pace, "", {job.id for job in streams}
    while True:
        statuses = await _statuses(streams)
        victim = _victim(scene, pace, host_pid, statuses, announced)
        if victim is None:
            if scene.ended:
                return None
            await scene.next_move()
        elif victim.name == announced or not pace.notice_s:
            held = await _stopped_with(victim, [*streams, *background])
            if held & own:
                break
            os.kill(victim.pid, signal.SIGCONT)
        else:
            shown.say(
                f"Next: kill -9 engine {victim.letter} (pid {victim.pid}) while it runs {victim.running} jobs"
                + (", and a gateway" if http is not None else "")
            )
            await asyncio.sleep(pace.notice_s)
            announced = victim.name
    kill = Kill(victim, held)
    os.kill(victim.pid, signal.SIGKILL)
    _kill_gateway(shown, http)
    scene.killed = victim
    cut = [at for at, job in enumerate(streams) if job.id in kill.held]
    for at in cut:
        scene.streams[at].cut = scene.streams[at].offset
    await _follow_up(scene, shown, kill, {scene.streams[at]: streams[at] for at in cut})
    await asyncio.sleep(pace.notice_s)
    if http is not None:
        await _resumed_over_http(shown, http)
        await asyncio.sleep(pace.notice_s)
    scene.settled = True
    return kill


async def _stopped_with(victim: EngineView, jobs: list[AsyncJobHandle]) -> set[str]:
    """Stop an engine; what it runs then can't end before it is killed, however busy this machine is."""
    os.kill(victim.pid, signal.SIGSTOP)
    try:
        return _held(victim, await _statuses(jobs))
    except BaseException:
        os.kill(victim.pid, signal.SIGCONT)
        raise


async def _statuses(jobs: list[AsyncJobHandle]) -> list[JobStatus]:
    return await asyncio.gather(*(job.status() for job in jobs))


def _victim(
    scene: Scene, pace: Pace, host_pid: int, statuses: list[JobStatus], announced: str = ""
) -> EngineView | None:
    """The engine that runs the most streams, once one of them is well under way; None while none is.

    Streams near their end don't count, since nobody could see them resumed. The engine that was announced is
    preferred while it has a stream that is well under way.
    """
    runs = Counter(
        status.worker
        for status in statuses
        if status.state is JobState.RUNNING and status.offset <= pace.kill_before
    )
    under_way = {
        status.worker
        for status in statuses
        if status.state is JobState.RUNNING and pace.kill_at <= status.offset <= pace.kill_before
    }
    engines = [engine for engine in scene.engines if runs[engine.name] and _parent(engine.pid) == host_pid]
    victim = max(engines, key=lambda engine: (engine.name == announced, runs[engine.name]), default=None)
    return victim if victim is not None and victim.name in under_way else None


def _parent(pid: int) -> int | None:
    """A process's parent; on a shared Redis, an engine may belong to another machine."""
    try:
        # The second field is the name in brackets, which may have spaces and brackets itself; after the last
        # one come the state and the parent.
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return None


def _held(victim: EngineView, statuses: list[JobStatus]) -> set[str]:
    return {
        status.job_id
        for status in statuses
        if status.state is JobState.RUNNING and status.worker == victim.name
    }


async def _follow_up(scene: Scene, shown: Screen, kill: Kill, cut: dict[StreamView, AsyncJobHandle]) -> None:
    """Show at which token each stream was cut off, and which engine continues it at the next."""
    first = next(iter(cut), None)
    seen = None if first is None else first.cut
    for view, job in cut.items():
        await _look(scene, view, job, kill)
    # On a busy machine, another engine may have continued it before this first look.
    shown.say(_death(kill, first, seen if first is None or first.cut is None else first.cut), "red")
    while True:
        if first is not None and first.resumed is not None:
            shown.say(
                f'"{first.prompt}" resumed on engine {first.owner} at token {first.resumed}, '
                "none lost or repeated",
                "green",
            )
            first = None
        if all(view.cut is None for view in cut):
            return
        await asyncio.sleep(_LOOK_S)
        for view, job in cut.items():
            await _look(scene, view, job, kill)


def _kill_gateway(shown: Screen, http: HttpStream | None) -> None:
    """Kill the gateway if its stream has begun: on a busy machine it begins after others."""
    if http is not None and (pid := http.kill_gateway()) is not None:
        shown.say(f'kill -9 {pid}: the gateway that serves "{http.view.prompt}" over HTTP dies', "red")


async def _resumed_over_http(shown: Screen, http: HttpStream) -> None:
    while http.resumed is None and not http.view.done:
        _kill_gateway(shown, http)
        await asyncio.sleep(_LOOK_S)
    if http.resumed is not None:
        shown.say(
            f'"{http.view.prompt}" resumed through another gateway at token {http.resumed}, none lost',
            "green",
        )


async def _look(scene: Scene, view: StreamView, job: AsyncJobHandle, kill: Kill) -> None:
    """Check how far a stream that was cut off has come."""
    if view.cut is None:
        return
    status = await job.status()
    if status.worker not in {None, kill.engine.name} and status.state is not JobState.QUEUED:
        view.belongs_to(scene.letter(status.worker or ""))
    elif status.state.terminal:
        view.cut = None
    elif view.cut is not None:  # no engine writes to it now: this is what the dead one had published
        view.cut = status.offset


def _death(kill: Kill, first: StreamView | None, at: int | None) -> str:
    died = f"kill -9 {kill.engine.pid}: engine {kill.engine.letter} dies "
    if first is None:
        return f"{died}in the middle of {len(kill.held)} jobs"
    return f'{died}at token {at} of "{first.prompt}" ({len(kill.held)} jobs)'
