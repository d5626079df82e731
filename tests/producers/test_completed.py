"""Many jobs taken as they end."""

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from redis import Redis

from headrace import AsyncClient, BadSetting, BrokerUnavailable, Client, JobFailed, JobNotFound, ResultTimeout
from headrace.producers import reading
from headrace.schemas.events import JobError, JobState


def enqueue(client: Client, count: int) -> list[Any]:
    return client.enqueue_many([{"prompt": "x", "model": "m"}] * count)


def test_jobs_are_given_as_they_end_whatever_their_order(client: Client, worker: Any) -> None:
    jobs = enqueue(client, 4)
    running = worker.start_all()
    running[jobs[2].id].finish()
    ended = client.as_completed(jobs)
    assert next(ended) is jobs[2]
    for place in (3, 0, 1):
        running[jobs[place].id].write(2)
        running[jobs[place].id].finish()
        job = next(ended)
        assert job is jobs[place]
        assert job.result(timeout_s=0).token_ids == (1000, 1001)
    assert list(ended) == []


def test_a_job_that_ended_badly_is_given_too_and_its_result_raises(
    client: Client, redis: Redis, worker: Any
) -> None:
    failed, cancelled, gone, good = jobs = enqueue(client, 4)
    running = worker.start_all()
    running[failed.id].finish(JobState.FAILED, error=JobError(code="context_length", message="too long"))
    running[cancelled.id].finish(JobState.CANCELLED)
    redis.delete(worker.tag.job(gone.id), worker.tag.out(gone.id))
    running[good.id].finish()
    assert set(client.as_completed(jobs)) == set(jobs)
    with pytest.raises(JobFailed):
        failed.result(timeout_s=0)
    with pytest.raises(JobNotFound):
        gone.result(timeout_s=0)


def test_a_job_named_twice_is_given_once_and_none_at_all_is_no_wait(client: Client, worker: Any) -> None:
    (job,) = enqueue(client, 1)
    worker.start().finish()
    assert list(client.as_completed([job, client.job(job.id), job])) == [job]
    assert list(client.as_completed([])) == []


def test_jobs_that_have_not_ended_in_time_are_counted(client: Client, worker: Any) -> None:
    jobs = enqueue(client, 3)
    worker.start().finish()
    ended = client.as_completed(jobs, timeout_s=0.3)
    assert next(ended) == jobs[0]
    with pytest.raises(ResultTimeout, match=rf"job {jobs[1].id} and 1 other have not ended within 0\.3 s: "):
        next(ended)


def test_the_end_of_a_job_that_was_not_heard_of_is_found(
    client: Client, redis: Redis, worker: Any, monkeypatch: pytest.MonkeyPatch, until: Callable[..., None]
) -> None:
    monkeypatch.setattr(reading, "SILENCE_S", 0.2)
    jobs = enqueue(client, 2)
    channels = [worker.tag.chan(job.id) for job in jobs]
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(next, client.as_completed(jobs))
        until(lambda: all(count for _, count in redis.pubsub_numsub(*channels)))
        redis.hset(worker.tag.job(jobs[1].id), "state", "succeeded")
        assert waiting.result(timeout=20) == jobs[1]


def test_a_loop_that_is_left_listens_no_longer(
    client: Client, redis: Redis, worker: Any, until: Callable[..., None]
) -> None:
    jobs = enqueue(client, 3)
    worker.start().finish()
    for job in client.as_completed(jobs):
        assert job == jobs[0]
        break
    until(lambda: not redis.pubsub_channels())


def test_closing_the_client_ends_the_wait(
    client: Client, redis: Redis, worker: Any, until: Callable[..., None]
) -> None:
    jobs = enqueue(client, 2)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(list, client.as_completed(jobs))
        until(redis.pubsub_channels)
        client.close()
        with pytest.raises(BrokerUnavailable, match="closed"):
            waiting.result(timeout=20)


@pytest.mark.parametrize("wrong", ["id", ["id"], [None], None])
def test_what_is_no_handle_is_refused_before_anything_is_asked(client: Client, wrong: Any) -> None:
    with pytest.raises(BadSetting, match="jobs"):
        client.as_completed(wrong)


async def test_a_thousand_jobs_are_given_as_they_end(
    redis_url: str, redis: Redis, worker: Any, until_async: Callable[..., Awaitable[None]]
) -> None:
    async with AsyncClient(redis_url) as client:
        jobs = await client.enqueue_many([{"prompt": "x", "model": "m"}] * 1000)
        running = worker.start_all()

        async def read() -> list[str]:
            return [job.id async for job in client.as_completed(jobs, timeout_s=120)]

        reading = asyncio.create_task(read())
        await until_async(lambda: len(redis.pubsub_channels()) == 1000)
        redis.client_kill_filter(_type="pubsub")

        def end() -> None:
            for job in reversed(jobs):
                running[job.id].write(1)
                running[job.id].finish()

        await asyncio.to_thread(end)
        assert sorted(await reading) == sorted(running)
        await until_async(lambda: not redis.pubsub_channels())
