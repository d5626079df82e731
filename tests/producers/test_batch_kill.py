"""A gateway process is killed in the middle of a batch, and another is started."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import openai
import pytest

from ..support.processes import launch
from ..support.waiting import WAIT_S
from .conftest import ScriptedWorker

pytestmark = pytest.mark.serial

LINES = 400
URL = "/v1/completions"


async def until(check: Callable[[], Awaitable[Any]]) -> None:
    give_up_at = time.monotonic() + WAIT_S
    while not await check():
        assert time.monotonic() < give_up_at
        await asyncio.sleep(0.02)


@asynccontextmanager
async def gateway(folder: Path, redis_url: str) -> AsyncIterator[openai.AsyncOpenAI]:
    """A client of a gateway process, which is killed with SIGKILL at the end."""
    log = folder / "gateway.log"
    log.unlink(missing_ok=True)
    settings = {
        "HEADRACE_FILES_URL": (folder / "files").as_uri(),
        "HEADRACE_BATCH_LEASE_S": "1",
        "HEADRACE_BATCH_IN_FLIGHT": "50",
        "HEADRACE_REDIS_URL": redis_url,
    }
    process = launch("-m", "headrace.cli", "gateway", "--port", "0", "--no-auth", log=log, **settings)

    async def started() -> bool:
        assert process.poll() is None, log.read_text()
        return "gateway_starting" in log.read_text()

    try:
        await until(started)
        events = [json.loads(line) for line in log.read_text().splitlines()]
        (url,) = [event["url"] for event in events if event["event"] == "gateway_starting"]
        async with openai.AsyncOpenAI(base_url=url, api_key="-") as client:
            yield client
            process.kill()  # before the client takes its leave
    finally:
        process.kill()
        process.wait()


async def answer(worker: ScriptedWorker, most: int, client: openai.AsyncOpenAI, batch_id: str) -> None:
    """Answer this many lines, or fewer if the batch ends before."""
    answered = 0
    while answered < most:
        for job in worker.start_all().values():
            job.write(2)
            job.finish()
            answered += 1
        if (await client.batches.retrieve(batch_id)).status == "completed":
            return


async def test_each_line_is_answered_and_generated_once(
    redis_url: str, worker: ScriptedWorker, tmp_path: Path
) -> None:
    body = {"model": "m", "prompt": "x", "max_tokens": 4}
    lines = [{"custom_id": f"{i}", "method": "POST", "url": URL, "body": body} for i in range(LINES)]
    content = "".join(json.dumps(line) + "\n" for line in lines).encode()
    async with gateway(tmp_path, redis_url) as client:
        file = await client.files.create(file=("in.jsonl", content), purpose="batch")
        batch = await client.batches.create(input_file_id=file.id, endpoint=URL, completion_window="24h")
        await answer(worker, 120, client, batch.id)

        async def counted() -> bool:
            counts = (await client.batches.retrieve(batch.id)).request_counts
            return counts is not None and counts.completed > 0

        await until(counted)
        await answer(worker, 30, client, batch.id)  # which nobody has counted when the gateway dies
    async with gateway(tmp_path, redis_url) as client:
        counts = (await client.batches.retrieve(batch.id)).request_counts
        assert counts is not None
        assert 0 < counts.completed < LINES
        await answer(worker, LINES, client, batch.id)
        done = await client.batches.retrieve(batch.id)
        assert done.request_counts is not None
        assert (done.request_counts.completed, done.request_counts.failed) == (LINES, 0)
        assert done.output_file_id is not None
        output = (await client.files.content(done.output_file_id)).text.splitlines()
        assert sorted(int(json.loads(line)["custom_id"]) for line in output) == list(range(LINES))
    assert len(list(worker.redis.scan_iter(worker.tag.job("*"), count=1000))) == LINES
