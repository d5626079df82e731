"""Kill what you like: every stream goes on at the next token."""

import threading
import time

import psutil
import pytest

from headrace.schemas.keys import tag_of

from ..support.waiting import WAIT_S, wait_until
from .conftest import assert_whole, leaked_keys

pytestmark = [pytest.mark.serial, pytest.mark.timeout(400)]

PROMPTS = ("A dictionary is", "To open a file,", "The asyncio module", "Return a new string", "x")


def job_fields(number: int) -> dict[str, object]:
    """Jobs of mixed length, greedy and sampled."""
    return {
        "prompt": PROMPTS[number % 5] * (1 + number % 7),
        "model": "demo",
        "max_tokens": 20 + 13 * (number % 11),
        "temperature": 0.0 if number % 3 == 0 else 0.9,
        "seed": number,
        "ignore_eos": True,
        "tenant": f"tenant-{number % 4}",
        "stream": number % 2 == 0,
    }


def finish_all(worker, redis, jobs):
    for job in jobs:
        job.result(timeout_s=180)
    for number, job in enumerate(jobs):
        assert len(assert_whole(redis, job)) == job_fields(number)["max_tokens"]


def assert_idle_and_clean(worker, redis, deaths=()):
    def idle():
        workers = worker.client.workers()
        return workers and all(w.running == w.waiting == 0 and w.pages_free == w.pages_total for w in workers)

    wait_until(idle)  # the engine process checks its pages when idle, and would die of a wrong one
    assert [event["status"] for event in worker.events("engine_died")] == list(deaths)
    assert leaked_keys(redis) == []


@pytest.mark.slow
def test_two_hundred_jobs_over_two_engines_each_end_once_and_whole(redis_url, redis, start_worker):
    worker = start_worker(redis_url, engines=2)
    jobs = worker.client.enqueue_many(job_fields(number) for number in range(200))
    finish_all(worker, redis, jobs)
    assert {job.status().state for job in jobs} == {"succeeded"}
    assert len({job.status().worker for job in jobs}) == 2
    assert_idle_and_clean(worker, redis)


def test_two_hundred_jobs_survive_five_kills(redis_url, redis, start_worker, expected_tokens):
    worker = start_worker(redis_url, engines=2)
    jobs = worker.client.enqueue_many({**job_fields(n), "max_attempts": 8} for n in range(200))
    killed: set[str] = set()
    for kills in range(5):
        ended = 30 * kills + 10
        wait_until(lambda ended=ended: sum(job.status().state.terminal for job in jobs) >= ended, 120)

        def kill_a_busy_one() -> bool:
            busy = [w.id for w in worker.client.workers() if w.running and w.id not in killed]
            if not busy or not worker.kill_engine(busy[0]):
                return False
            killed.add(busy[0])  # it is listed until its host has told the queue
            return True

        wait_until(kill_a_busy_one)
    finish_all(worker, redis, jobs)
    histories = [redis.hget(tag_of(job.id).job(job.id), "history") for job in jobs]
    resumed = [number for number, history in enumerate(histories) if history]
    assert resumed
    numbers = resumed[:20]
    expected = expected_tokens.of_each([job_fields(number) for number in numbers])
    assert [assert_whole(redis, jobs[number]) for number in numbers] == expected
    assert_idle_and_clean(worker, redis, deaths=[-9] * 5)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_stream_goes_on_token_exact_when_its_engine_is_killed(
    redis_url, redis, start_worker, expected_tokens, temperature
):
    worker = start_worker(redis_url, engines=2, step_s=0.03)
    fields = {
        "prompt": "A generator is",
        "model": "demo",
        "max_tokens": 130,
        "ignore_eos": True,
        "temperature": temperature,
        "seed": 5,
    }
    job = worker.client.enqueue(**fields)
    seen, text, killed_at, gap_s = [], "", None, 0.0
    for chunk in job.stream():
        if killed_at is not None and gap_s == 0.0 and chunk.offset > 60:
            gap_s = time.monotonic() - killed_at
        seen += chunk.token_ids
        text += chunk.text
        if killed_at is None and chunk.offset >= 40:
            assert worker.kill_engine(job.status().worker)
            killed_at = time.monotonic()
    print(f"from kill -9 to the stream's next tokens: {gap_s:.2f} s (lease 2 s)")
    result = job.result(timeout_s=5)
    assert seen == list(result.token_ids) == expected_tokens(**fields)
    assert text == result.text
    assert result.attempts == 1


def test_the_only_engines_job_goes_on_in_the_spare(redis_url, redis, start_worker, expected_tokens):
    worker = start_worker(redis_url, step_s=0.03, environment={"HEADRACE_SPARE_ENGINE": "true"})
    wait_until(lambda: worker.events("spare_ready"))
    fields = {"prompt": "A spare is", "model": "demo", "max_tokens": 150, "ignore_eos": True, "seed": 3}
    job = worker.client.enqueue(**fields)
    chunks = job.stream()
    next(chunks)
    assert worker.kill_engine(job.status().worker)
    assert job.result(timeout_s=90).attempts == 1
    assert assert_whole(redis, job) == expected_tokens(**fields)
    spare, (first, second) = worker.events("spare_ready")[0], worker.events("engine_started")
    assert (first["prestarted"], second["prestarted"]) == (False, True)
    assert second["pid"] == spare["pid"]
    assert second["engine"] == job.status().worker
    assert [w.id for w in worker.client.workers()] == [second["engine"]]  # the next spare is no worker
    started = psutil.Process(worker.process.pid).children(recursive=True)
    assert worker.stop() == 0
    assert psutil.wait_procs(started, timeout=WAIT_S)[1] == []


def test_sigterm_hands_running_jobs_over_without_counting_an_attempt(
    redis_url, redis, start_worker, expected_tokens
):
    first = start_worker(redis_url, step_s=0.05)
    fields = {
        "prompt": "The with statement",
        "model": "demo",
        "max_tokens": 400,
        "ignore_eos": True,
        "seed": 1,
    }
    jobs = [first.client.enqueue(**fields), first.client.enqueue(**fields)]
    chunks = jobs[0].stream()
    assert next(chunks).offset < 400
    second = start_worker(redis_url)
    started = time.monotonic()
    assert first.stop() == 0
    print(
        f"hand-over of a worker with 2 running jobs: {time.monotonic() - started:.1f} s until it had exited"
    )
    for job in jobs:
        result = job.result(timeout_s=60)
        assert result.attempts == 0
        assert result.worker in {event["engine"] for event in second.events("engine_ready")}
        assert assert_whole(redis, job) == expected_tokens(**fields)
    assert second.events("engine_died") == []


def test_redis_away_for_ten_seconds_loses_nothing(own_redis, start_worker, expected_tokens):
    from headrace.schemas.redis.connection import connect

    worker = start_worker(own_redis.url, engines=2, step_s=0.02)
    fields = {
        "model": "demo",
        "max_tokens": 100,
        "ignore_eos": True,
        "prompt": "When an exception is raised,",
    }
    jobs = [worker.client.enqueue(**fields, seed=seed) for seed in range(6)]
    seen: list[int] = []
    reader = threading.Thread(target=lambda: [seen.extend(c.token_ids) for c in jobs[0].stream()])
    reader.start()
    wait_until(lambda: len(seen) > 30)
    own_redis.stop()
    threading.Event().wait(10)
    own_redis.start()
    reader.join(timeout=120)
    with connect(own_redis.url) as redis:
        for job in jobs:
            job.result(timeout_s=120)
        expected = expected_tokens.of_each([{**fields, "seed": seed} for seed in range(6)])
        assert [assert_whole(redis, job) for job in jobs] == expected
        assert seen == assert_whole(redis, jobs[0])
        assert leaked_keys(redis) == []
    assert worker.events("engine_died") == []


def test_cancel_ends_a_running_job_and_frees_its_pages(redis_url, redis, start_worker):
    worker = start_worker(redis_url)
    job = worker.client.enqueue("A set is", model="demo", max_tokens=1500, ignore_eos=True)
    next(iter(job.stream()))
    assert job.cancel() == "cancelling"
    wait_until(lambda: job.status().state == "cancelled", 10)
    assert_idle_and_clean(worker, redis)
