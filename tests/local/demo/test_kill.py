"""Who is killed: an engine of ours that runs streams which are far from their end; else nobody."""

import asyncio
import os
import subprocess
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from unittest.mock import Mock

import psutil
import pytest

from headrace.local.demo import backend, tour
from headrace.local.demo.kill import Kill, kill_one
from headrace.local.demo.outcome import Outcome
from headrace.local.demo.over_http import HttpStream
from headrace.local.demo.pace import QUICK, Pace
from headrace.local.demo.scene import EngineView, Scene, StreamView
from headrace.schemas.errors import DemoFailed, StackError
from headrace.schemas.events import JobResult, JobState, JobStatus

KILL = Kill(EngineView("A", "a", 1, 9, 9, 0), {"0"})
HELD, ENDED = JobState.RUNNING, JobState.SUCCEEDED


class Log:
    """A screen that keeps what is said."""

    pace: Pace = QUICK

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str, style: str = "") -> None:
        self.lines.append(line)


class Job:
    """A job of which is read what it was given to say, one status after the other and the last for ever."""

    def __init__(self, job_id: str, *said: tuple[JobState, str, int]) -> None:
        self.id, self._said = job_id, list(said)

    async def status(self) -> JobStatus:
        state, worker, offset = self._said.pop(0) if len(self._said) > 1 else self._said[0]
        return JobStatus(
            job_id=self.id,
            model="demo",
            state=state,
            job_class="interactive",
            tenant="default",
            offset=offset,
            worker=worker,
            enqueued_ms=0,
        )


@pytest.fixture
def engine() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "60"]) as process:
        yield process
        process.kill()


def scene(*pids: int, done: bool = False) -> Scene:
    streams = [StreamView("x", offset=100, done=done), StreamView("y", offset=100, done=done)]
    shown = Scene(streams, 3)
    shown.see([EngineView("AB"[at], "ab"[at], pid, 9, 0, 2) for at, pid in enumerate(pids)])
    for stream, letter in zip(streams, "AB", strict=True):
        stream.belongs_to(letter)
    return shown


def killed(shown: Scene, log: Log, host: int, streams: list[Job], background: list[Job]) -> Kill | None:
    return asyncio.run(kill_one(shown, log, host, streams, background))


def test_the_engine_that_runs_a_stream_is_killed_and_what_it_ran_is_known(engine):
    log, shown = Log(), scene(1, engine.pid)
    ended = Job("one", (ENDED, "a", 220))
    cut = Job("two", *[(HELD, "b", 100)] * 3, (JobState.QUEUED, "b", 101), (HELD, "a", 105))
    kill = killed(
        shown, log, os.getpid(), [ended, cut], [Job("three", (HELD, "b", 0)), Job("four", (HELD, "a", 0))]
    )
    assert engine.wait(10) == -9
    assert kill is not None
    assert kill.held == {"two", "three"}
    assert log.lines[-2:] == [
        f'kill -9 {engine.pid}: engine B dies at token 100 of "y" (2 jobs)',
        '"y" resumed on engine A at token 102, none lost or repeated',
    ]
    assert shown.settled


def test_a_stream_that_is_resumed_before_the_first_look_is_told_of_as_well(engine):
    log = Log()
    ended = Job("one", (ENDED, "a", 220))
    cut = Job("two", *[(HELD, "b", 100)] * 2, (HELD, "a", 105))
    assert killed(scene(1, engine.pid), log, os.getpid(), [ended, cut], []) is not None
    assert log.lines[-2:] == [
        f'kill -9 {engine.pid}: engine B dies at token 100 of "y" (1 jobs)',
        '"y" resumed on engine A at token 101, none lost or repeated',
    ]


def test_the_engine_that_was_announced_is_the_one_that_is_killed(engine):
    log, shown = Log(), scene(engine.pid, engine.pid)
    log.pace = replace(QUICK, notice_s=0.001)
    leaves_b = Job("one", (HELD, "b", 100), (HELD, "a", 100))
    stays = Job("two", *[(HELD, "b", 100)] * 3, (JobState.QUEUED, "b", 101), (HELD, "a", 105))
    kill = killed(shown, log, os.getpid(), [leaves_b, stays], [])
    assert kill is not None
    assert kill.engine.letter == "B"
    assert log.lines[0].startswith("Next: kill -9 engine B ")


async def test_the_engine_with_the_most_streams_is_killed_though_anothers_is_further(engine):
    shown = scene(engine.pid, engine.pid)
    shown.streams.append(StreamView("z"))
    alone = Job("one", (HELD, "a", 100))
    behind = [
        Job(name, (HELD, "b", 30), *[(HELD, "b", 100)] * 3, (JobState.QUEUED, "b", 101), (HELD, "a", 105))
        for name in ("two", "three")
    ]
    killing = asyncio.ensure_future(kill_one(shown, Log(), os.getpid(), [alone, *behind], []))
    while not killing.done():
        shown.moved.set()
        await asyncio.sleep(0)
    assert killing.result().held == {"two", "three"}


def test_the_next_engine_is_told_of_once_and_after_the_streams_go_on():
    shown = scene(1, 2)
    survivor, shown.killed = shown.engines
    shown.see([survivor])
    shown.settled = True
    assert shown.newcomer() is None
    shown.see([survivor, EngineView("C", "c", 3, 9, 9, 0)])
    shown.settled = False
    assert shown.newcomer() is None
    shown.settled = True
    assert [found and found.letter for found in (shown.newcomer(), shown.newcomer())] == ["C", None]


def test_nobody_is_killed_whose_streams_have_ended_while_it_was_chosen(engine):
    shown = scene(engine.pid, done=True)
    quick = Job("one", (HELD, "a", 100), (ENDED, "a", 220))
    assert killed(shown, Log(), os.getpid(), [quick], [Job("two", (HELD, "a", 0))]) is None
    assert engine.poll() is None
    assert psutil.Process(engine.pid).status() != psutil.STATUS_STOPPED


@pytest.mark.parametrize("offset", [QUICK.kill_at - 1, QUICK.kill_before + 1])
def test_nobody_is_killed_whose_streams_have_just_begun_or_soon_end(engine, offset):
    shown = scene(engine.pid, done=True)
    assert killed(shown, Log(), os.getpid(), [Job("one", (HELD, "a", offset))] * 2, []) is None
    assert engine.poll() is None


def test_an_engine_of_somebody_else_is_never_killed(engine):
    shown = scene(engine.pid, done=True)
    assert killed(shown, Log(), 1, [Job("one", (HELD, "a", 100))] * 2, []) is None
    assert engine.poll() is None


def http(*token_ids: int, resumed: int | None = 5, kill: Callable[[str], int] = len) -> HttpStream:
    return HttpStream(StreamView("x"), deque(["one", "two"]), kill, list(token_ids), resumed=resumed)


def test_the_gateway_is_killed_once_and_in_the_middle_of_the_stream():
    killed: list[str] = []
    stream = http(kill=lambda url: killed.append(url) or 4801)
    assert stream.kill_gateway() is None
    stream.token_ids.append(7)
    assert [stream.kill_gateway(), stream.kill_gateway()] == [4801, None]
    stream = http(7, kill=lambda url: killed.append(url) or 4801)
    stream.view.done = True
    assert stream.kill_gateway() is None
    assert killed == ["one"]


def test_without_a_gateway_the_tour_says_so_and_goes_on(monkeypatch, capsys):
    monkeypatch.setattr(tour, "stack", Mock(side_effect=StackError("as far as this")))
    with pytest.raises(StackError, match="as far as this"):
        tour.demo()
    missing = "No stream over HTTP: the gateway is missing (pip install 'headrace[gateway]')."
    assert capsys.readouterr().out.splitlines()[1:] == [missing]


def outcome(
    kill: Kill | None,
    *workers: str,
    breaks: int = 0,
    state: JobState = ENDED,
    over_http: HttpStream | None = None,
) -> Outcome:
    shown = Scene([StreamView("x", breaks=breaks)], len(workers))
    results = [
        JobResult(job_id=str(at), state=state, worker=worker, finish_reason="length", token_ids=(7, 8))
        for at, worker in enumerate(workers)
    ]
    return Outcome(shown, results, kill, 1.0, over_http)


def test_what_was_resumed_is_what_the_killed_engine_ran_and_another_ended():
    kill = Kill(EngineView("A", "a", 1, 9, 9, 2), {"0", "1"})
    found = outcome(
        kill, "b", "a", "b"
    )  # the second had ended in the same instant; the third was the other's
    assert (found.resumed, found.fault) == (1, None)
    assert ("jobs resumed after kill -9", "1") in found.rows(slowed=False)


@pytest.mark.parametrize(
    ("found", "fault"),
    [
        (outcome(None, "a"), "no engine was killed in the middle of a job"),
        (outcome(Kill(EngineView("A", "a", 1, 9, 9, 0), {"0"}), "a"), "no engine was killed in the middle"),
        (
            outcome(Kill(EngineView("A", "a", 1, 9, 9, 0), {"0"}), "b", breaks=2),
            "tokens were lost or repeated",
        ),
        (outcome(None, "a", state=JobState.FAILED), "1 of 1 jobs did not succeed"),
        (outcome(KILL, "b", "b", over_http=http(7, 8, resumed=None)), "no gateway was killed in the middle"),
        (outcome(KILL, "b", "b", over_http=http(7, 9)), "that came over HTTP are not those of the result"),
    ],
)
def test_a_tour_that_did_not_show_it_says_so(found, fault):
    assert fault in found.fault


def test_a_tour_that_did_not_show_it_has_failed(cli, monkeypatch):

    def found(*_):
        raise DemoFailed(outcome(None, "a").fault)

    monkeypatch.setattr("headrace.local.demo.demo", found)
    ran = cli("demo")
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr.startswith("headrace: no engine was killed in the middle of a job")


async def test_a_celery_project_that_fails_ends_the_tour_in_a_sentence():
    with pytest.raises(DemoFailed, match="the Celery project ended with status 1"):
        await backend.run("nowhere")
