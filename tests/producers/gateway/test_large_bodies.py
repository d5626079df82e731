"""Large bodies are read, checked and written beside the event loop, on which streams wait for their turns."""

import asyncio
import json
import time

import httpx

from headrace import AsyncClient
from headrace.producers.gateway.app import create_app
from headrace.producers.openai.completions import completion_jobs
from headrace.schemas.job import Job
from headrace.schemas.settings.gateway import GatewaySettings
from headrace.schemas.wire import WireJob

BODY = {"model": "m", "prompt": [*range(10_000, 99_999)] * 13, "max_tokens": 1}
TURN_S = 0.001
TRIES = 5
"""A stall may be the machine's, which hits now and then; a body that stalls the loop does so each time."""


def time_to_check() -> float:
    """What checking and writing the job takes, without reading the JSON."""
    began = time.perf_counter()
    WireJob.of(Job.make(**completion_jobs(BODY)[0])).to_wire()
    return time.perf_counter() - began


async def longest_stall(done: asyncio.Event) -> float:
    """The longest time between two turns of the loop."""
    longest, last = 0.0, time.perf_counter()
    while not done.is_set():
        await asyncio.sleep(TURN_S)
        now = time.perf_counter()
        longest, last = max(longest, now - last), now
    return longest


async def test_a_body_of_8_mb_of_token_ids_holds_up_nobody_for_as_long_as_it_takes(redis_url: str) -> None:
    content = json.dumps(BODY).encode()
    assert len(content) > 8_000_000
    settings = GatewaySettings(gateway_auth=False)
    async with AsyncClient(redis_url) as client:
        app = httpx.ASGITransport(create_app(settings, client))
        ratios = []
        async with httpx.AsyncClient(transport=app, base_url="http://127.0.0.1") as http:
            for _ in range(TRIES):
                done = asyncio.Event()
                stalled = asyncio.create_task(longest_stall(done))
                answer = await http.post(
                    "/v1/completions", content=content, headers={"content-type": "application/json"}
                )
                done.set()
                # It is larger than any job, which only its written form tells.
                assert (answer.status_code, answer.json()["error"]["param"]) == (400, "job")
                ratios.append(await stalled / time_to_check())
    assert min(ratios) < 0.5, ratios
