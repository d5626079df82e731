import asyncio
import signal
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from redis import Redis

from headrace import AsyncClient, BrokerUnavailable, Client, JobHandle
from headrace.producers import reading

FIRST_TOKEN = 1000
OUTAGE_S = 0.7


def expected(end: int) -> list[int]:
    return list(range(FIRST_TOKEN, FIRST_TOKEN + end))


@pytest.fixture
def redis(own_redis: Any) -> Iterator[Redis]:
    """The test's own Redis in the place of the shared one, for the scripted worker."""
    from headrace.schemas.redis.connection import connect

    with connect(own_redis.url) as redis:
        yield redis


def outage(own_redis: Any, signum: signal.Signals = signal.SIGTERM) -> None:
    """End Redis and start it again a while later, from its append-only file."""
    own_redis.kill(signum)
    own_redis.stop()
    starter = threading.Timer(OUTAGE_S, own_redis.start)
    starter.start()
    starter.join()


def read(job: JobHandle, into: list[int]) -> threading.Thread:
    def run() -> None:
        for chunk in job.stream():
            into.extend(chunk.token_ids)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL])
def test_streams_and_results_survive_a_restart_of_redis(
    own_redis: Any, worker: Any, until: Callable[..., None], signum: signal.Signals
) -> None:
    with Client(own_redis.url) as client:
        jobs = client.enqueue_many([{"prompt": "x", "model": "m"}] * 5)
        running = worker.start_all()
        seen: list[list[int]] = [[] for _ in jobs]
        threads = [read(job, into) for job, into in zip(jobs, seen, strict=True)]
        results: list[Any] = []
        waiter = threading.Thread(target=lambda: results.append(jobs[0].result(timeout_s=60)), daemon=True)
        waiter.start()
        for job in jobs:
            running[job.id].write(1, 2)
        until(lambda: all(len(ids) == 3 for ids in seen))
        outage(own_redis, signum)
        for job in jobs:
            running[job.id].write(3, 1)
            running[job.id].finish()
        for thread in (*threads, waiter):
            thread.join(30)
        assert seen == [expected(7)] * 5
        assert results[0].token_ids == tuple(expected(7))


async def test_async_streams_survive_a_restart_of_redis(
    own_redis: Any, worker: Any, until_async: Callable[..., Awaitable[None]]
) -> None:
    async with AsyncClient(own_redis.url) as client:
        jobs = await client.enqueue_many([{"prompt": "x", "model": "m"}] * 5)
        running = worker.start_all()
        seen: list[list[int]] = [[] for _ in jobs]

        async def read(number: int) -> None:
            async for chunk in jobs[number].stream():
                seen[number].extend(chunk.token_ids)

        async with asyncio.TaskGroup() as tasks:
            for number in range(5):
                tasks.create_task(read(number))
            for job in jobs:
                running[job.id].write(1, 2)
            await until_async(lambda: all(len(ids) == 3 for ids in seen))
            await asyncio.to_thread(outage, own_redis)
            for job in jobs:
                running[job.id].write(3, 1)
                running[job.id].finish()
        assert seen == [expected(7)] * 5


def test_a_job_enqueued_while_redis_restarts_is_accepted_once(own_redis: Any, worker: Any) -> None:
    with Client(own_redis.url, retry_s=30) as client:
        client.enqueue("x", model="m")
        own_redis.stop()
        starter = threading.Timer(OUTAGE_S, own_redis.start)
        starter.start()
        job = client.enqueue("y", model="m")
        starter.join()
        assert job.status().state == "queued"
        assert [queue.depth for queue in client.queues()] == [2]


def test_a_stream_gives_up_when_redis_stays_away(
    own_redis: Any, worker: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "OUTAGE_S", 0.3)
    monkeypatch.setattr(reading, "SILENCE_S", 0.1)
    with Client(own_redis.url) as client:
        job = client.enqueue("x", model="m")
        worker.start().write(1)
        chunks = job.stream()
        next(chunks)
        own_redis.stop()
        with pytest.raises(BrokerUnavailable):
            next(chunks)
        with pytest.raises(BrokerUnavailable):
            job.result(timeout_s=0.2)
        own_redis.start()
        worker.start_all()


def test_a_redis_that_hangs_is_waited_for(own_redis: Any, worker: Any, until: Callable[..., None]) -> None:
    with Client(own_redis.url) as client:
        job = client.enqueue("x", model="m")
        running = worker.start()
        seen: list[int] = []
        thread = read(job, seen)
        running.write(1)
        until(lambda: len(seen) == 1)
        own_redis.kill(signal.SIGSTOP)
        waker = threading.Timer(OUTAGE_S, own_redis.kill, (signal.SIGCONT,))
        waker.start()
        running.write(2)
        running.finish()
        waker.join()
        thread.join(30)
        assert seen == expected(3)


def test_closing_waits_for_no_slot_that_an_interrupt_has_lost(redis_url: str) -> None:
    client = Client(redis_url)
    assert client.models() == []
    client._link()._slots.acquire()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("headrace.producers.client.CLOSE_S", 0.05)
        client.close()
    with pytest.raises(BrokerUnavailable):
        client.models()
