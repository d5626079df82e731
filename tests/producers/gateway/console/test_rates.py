"""What the console's plots show of jobs that were looked at."""

import pytest

from headrace.producers.gateway.console import rates as module
from headrace.producers.gateway.console.rates import Rates
from headrace.schemas.events import JobState, JobStatus

START_MS = 1_000_000


class Clock:
    """The time, which passes when the test says so."""

    def __init__(self) -> None:
        self.now_s = START_MS / 1000

    def monotonic(self) -> float:
        return self.now_s

    def time_ns(self) -> int:
        return round(self.now_s * 1e9)


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def job(name: str, offset: int, state: JobState = JobState.RUNNING, **more: int) -> JobStatus:
    times = {"enqueued_ms": 0, "started_ms": 100, "first_token_ms": 250}
    given = {name: START_MS + ms for name, ms in (times | more).items() if name.endswith("_ms")}
    given |= {name: value for name, value in more.items() if not name.endswith("_ms")}
    return JobStatus(
        job_id=name, model="m", state=state, job_class="standard", tenant="t", offset=offset, **given
    )


def test_throughput_counts_every_token_since_the_last_look_short_jobs_and_restarts_included(clock):
    rates = Rates()
    assert rates.observe([job("a", 100)])["now"]["tokens_s"] is None, "nobody saw when these came"
    clock.now_s += 2
    ended = job("b", 11, JobState.SUCCEEDED, finished_ms=1250)
    seen = rates.observe([job("a", 140), ended])
    assert seen["now"]["tokens_s"] == (40 + 11) / 2
    assert [(each["job_id"], each["tokens_s"]) for each in seen["jobs"]] == [("a", 20.0)]
    clock.now_s += 1
    seen = rates.observe([job("a", 30, restarts=1), ended])
    assert seen["now"]["tokens_s"] == 30
    assert len(seen["history"]) == 3


def test_times_are_those_of_the_jobs_seen_to_begin_and_of_the_gaps_between_tokens(clock):
    rates = Rates()
    rates.observe([job("old", 10)])
    clock.now_s += 1
    now = rates.observe([job("old", 20), job("new", 3, enqueued_ms=50)])["now"]
    assert now["ttft_p50"] == now["ttft_p95"] == 0.2
    assert now["itl_p50"] == 0.1
    clock.now_s += module.WINDOW_S + 1
    now = rates.observe([])["now"]
    assert (now["ttft_p50"], now["itl_p95"], now["tokens_s"]) == (None, None, 0.0)


def test_a_job_that_was_among_more_than_are_looked_at_does_not_count_at_once(clock):
    rates = Rates()
    rates.observe([])
    clock.now_s += module.UNSEEN_S + 2
    rates.observe([])
    clock.now_s += 1
    assert rates.observe([job("a", 900)])["now"]["tokens_s"] == 0
    clock.now_s += 1
    assert rates.observe([job("a", 940)])["now"]["tokens_s"] == 40


def test_a_stream_that_stands_still_says_for_how_long(clock):
    rates = Rates()
    for _ in range(4):
        clock.now_s += 1
        (shown,) = rates.observe([job("a", 7)])["jobs"]
    assert (shown["tokens_s"], shown["stalled_s"]) == (0.0, 3)
