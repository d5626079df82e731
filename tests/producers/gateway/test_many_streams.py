"""A thousand streams on one gateway process: none is broken, and what an idle one costs."""

import asyncio
from urllib.parse import urlsplit

import psutil
import pytest

from headrace import AsyncClient

from .test_process import gateway_process, url_of

pytestmark = [pytest.mark.serial, pytest.mark.xdist_group("gateway"), pytest.mark.usefixtures("worker")]

STREAMS = 1000
AT_ONCE = 50

MOST_BYTES = 60_000
"""Of memory, for a stream on which nothing happens."""


async def test_a_thousand_idle_streams_cost_little_and_all_end_with_their_job(stack_redis, tmp_path, capsys):
    with gateway_process(tmp_path, stack_redis.url, "--no-auth") as process:
        host = urlsplit(await asyncio.to_thread(url_of, process))
        gateway = psutil.Process(process.pid)
        async with AsyncClient(stack_redis.url) as client:
            job = await client.enqueue("x", model="demo", delay_s=3600)
            turn = asyncio.Semaphore(AT_ONCE)

            async def begin() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
                async with turn:
                    reader, writer = await asyncio.open_connection(host.hostname, host.port)
                    writer.write(f"GET /v1/jobs/{job.id}/stream HTTP/1.1\r\nhost: x\r\n\r\n".encode())
                    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
                    return reader, writer

            some = await asyncio.gather(*(begin() for _ in range(AT_ONCE)))
            before = gateway.memory_info().rss
            more = await asyncio.gather(*(begin() for _ in range(STREAMS - AT_ONCE)))
            each = (gateway.memory_info().rss - before) / len(more)
            with capsys.disabled():
                print(f"\nmemory of an idle stream: {each / 1000:.0f} kB")
            await job.cancel()
            for reader, writer in (*some, *more):
                text = await reader.readuntil(b"\n\n")
                while b"event: end" not in text:  # a comment
                    text = await reader.readuntil(b"\n\n")
                assert b'"state":"cancelled"' in text
                writer.close()
                await writer.wait_closed()
    assert each <= MOST_BYTES
