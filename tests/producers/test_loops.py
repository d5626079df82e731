"""One `AsyncClient` and the event loops of a program: each `asyncio.run` has a loop of its own."""

import asyncio
import gc
import threading

import pytest

from headrace import AsyncClient, BrokerUnavailable

from .conftest import MODEL, ScriptedWorker


async def generate(client: AsyncClient, worker: ScriptedWorker) -> list[int]:
    job = await client.enqueue("x", model=MODEL)
    stream = job.stream(timeout_s=15)
    first = asyncio.create_task(anext(stream))
    await asyncio.sleep(0)
    running = worker.start()
    running.write(2)
    running.finish()
    await first
    assert (await job.result(timeout_s=15)).token_ids == (1000, 1001)
    return [(await first).offset]


def test_a_client_works_in_one_loop_after_the_other_and_leaves_nothing_open(
    redis_url: str, worker: ScriptedWorker
) -> None:
    client = AsyncClient(redis_url)
    for _ in range(3):
        assert asyncio.run(generate(client, worker)) == [2]
        gc.collect()  # a connection that was left would warn
        assert not client._links


def test_a_client_works_in_two_loops_at_once(redis_url: str, worker: ScriptedWorker) -> None:
    client = AsyncClient(redis_url)
    found: list[int] = []

    async def outer() -> None:
        await client.models()
        thread = threading.Thread(target=lambda: found.extend(asyncio.run(generate(client, worker))))
        thread.start()
        while thread.is_alive():
            await client.models()
        thread.join()

    asyncio.run(outer())
    assert found == [2]


def test_a_closed_client_stays_closed_in_every_loop(redis_url: str) -> None:
    client = AsyncClient(redis_url)
    asyncio.run(client.models())
    asyncio.run(client.close())
    with pytest.raises(BrokerUnavailable, match="the client was closed"):
        asyncio.run(client.models())


async def test_a_closed_client_says_so_in_its_own_loop(redis_url: str) -> None:
    async with AsyncClient(redis_url) as client:
        await client.models()
    with pytest.raises(BrokerUnavailable, match="the client was closed"):
        await client.models()
