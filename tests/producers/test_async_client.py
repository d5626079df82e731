import asyncio
import inspect
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from redis import Redis

from headrace import (
    AsyncClient,
    AsyncJobHandle,
    BrokerUnavailable,
    Client,
    InvalidJob,
    JobCancelled,
    JobHandle,
    JobNotFound,
    JobsRefused,
    ResultTimeout,
)


def expected(end: int) -> list[int]:
    return list(range(1000, 1000 + end))


@pytest.mark.parametrize(("blocking", "awaiting"), [(Client, AsyncClient), (JobHandle, AsyncJobHandle)])
def test_both_clients_have_the_same_methods_and_arguments(blocking: type, awaiting: type) -> None:
    def public(kind: type) -> dict[str, Any]:
        methods = inspect.getmembers(kind, inspect.isroutine)
        return {
            name: [(p.name, p.kind, p.default) for p in inspect.signature(method).parameters.values()]
            for name, method in methods
            if not name.startswith("_")
        }

    assert public(blocking) == public(awaiting)


async def test_a_job_is_enqueued_streamed_and_answered(redis_url: str, worker: Any) -> None:
    async with AsyncClient(redis_url) as client:
        job = await client.enqueue("x", model="m", max_tokens=5)
        running = worker.start()
        running.write(2)
        seen: list[int] = []

        async def read() -> None:
            async for chunk in job.stream():
                seen.extend(chunk.token_ids)
                if len(seen) == 2:
                    running.write(1, 2)
                    running.finish()

        result, _ = await asyncio.gather(job.result(timeout_s=10), read())
        assert seen == expected(5)
        assert result.token_ids == tuple(expected(5))
        assert (await job.status()).state == "succeeded"
        assert client.job(job.id) == job


async def test_errors_are_the_same(redis_url: str, worker: Any) -> None:
    async with AsyncClient(redis_url) as client:
        with pytest.raises(InvalidJob):
            await client.enqueue("", model="m")
        with pytest.raises(TypeError):
            await client.enqueue("x", model="m", nonsense=1)  # type: ignore[call-arg]
        with pytest.raises(JobsRefused):
            await client.enqueue_many([{"prompt": "x", "model": "m"}, {"prompt": ""}])
        with pytest.raises(JobNotFound):
            client.job("nonsense")
        job = await client.enqueue("x", model="m")
        with pytest.raises(ResultTimeout):
            await job.result(timeout_s=0.05)
        assert await job.cancel() == "cancelled"
        with pytest.raises(JobCancelled):
            await job.result()


async def test_a_thousand_streams_share_one_task_and_few_connections(
    redis_url: str, redis: Redis, worker: Any, until_async: Callable[..., Awaitable[None]]
) -> None:
    others = {connection["id"] for connection in redis.client_list()}
    async with AsyncClient(redis_url) as client:
        jobs = await client.enqueue_many([{"prompt": "x", "model": "m"}] * 1000)
        running = worker.start_all()

        async def read(job: AsyncJobHandle) -> list[int]:
            return [token async for chunk in job.stream() for token in chunk.token_ids]

        reading = [asyncio.create_task(read(job)) for job in jobs]
        await until_async(lambda: len(redis.pubsub_channels()) == 1000)
        assert len(redis.client_list(_type="pubsub")) == 1
        redis.client_kill_filter(_type="pubsub")
        work = asyncio.gather(*(asyncio.to_thread(_work, running[job.id]) for job in jobs))
        assert [await task for task in reading] == [expected(3)] * 1000
        await work
        assert len({connection["id"] for connection in redis.client_list()} - others) < 25
        assert sum(task.get_name() == "headrace-hub" for task in asyncio.all_tasks()) == 1


def _work(running: Any) -> None:
    running.write(2, 1)
    running.finish()


async def test_a_cancelled_reader_leaves_nothing_behind(
    redis_url: str, redis: Redis, worker: Any, until_async: Callable[..., Awaitable[None]]
) -> None:
    async with AsyncClient(redis_url) as client:
        job = await client.enqueue("x", model="m")
        task = asyncio.create_task(job.result())
        await until_async(redis.pubsub_channels)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await until_async(lambda: not redis.pubsub_channels())
        await job.cancel()


async def test_closing_ends_the_readers(redis_url: str, redis: Redis, worker: Any, until_async: Any) -> None:
    client = AsyncClient(redis_url)
    job = await client.enqueue("x", model="m")
    task = asyncio.create_task(job.result())
    await until_async(redis.pubsub_channels)
    await client.close()
    for late in (task, job.result(), job.status(), client.enqueue("x", model="m")):
        with pytest.raises(BrokerUnavailable, match="closed"):
            await late
    assert not any(task.get_name() == "headrace-hub" for task in asyncio.all_tasks())


def test_a_client_made_in_one_thread_serves_a_loop_in_another(redis_url: str, worker: Any) -> None:
    client = AsyncClient(redis_url)
    ids: list[str] = []

    async def use() -> None:
        async with client:
            ids.append((await client.enqueue("x", model="m")).id)

    thread = threading.Thread(target=asyncio.run, args=(use(),))
    thread.start()
    thread.join()
    assert len(ids) == 1
