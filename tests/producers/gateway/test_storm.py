"""A storm: gateways are killed with -9, one after the other, under streams that must not notice."""

import asyncio
import itertools
import json
import os
import random
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import httpx
import pytest

from headrace import Client

from ...support.forkserver import Forked, Forkserver
from ...support.waiting import WAIT_S

pytestmark = [
    pytest.mark.slow,
    pytest.mark.serial,
    pytest.mark.xdist_group("gateway"),
    pytest.mark.usefixtures("worker"),
    pytest.mark.timeout(900),
]

GATEWAYS, STREAMS, SEEDS = 3, 50, 5
KILLS = int(os.environ.get("GATEWAY_KILLS", "200"))

ASKED = {"model": "demo", "prompt": "A dictionary is", "max_tokens": 200, "ignore_eos": True}


@pytest.fixture(scope="module")
def forks(no_process_left: None) -> Iterator[Forkserver]:
    """Starts gateways in a tenth of a second."""
    server = Forkserver(["headrace.cli.gateway", "headrace.producers.gateway.server"])
    yield server
    server.close()


@dataclass
class Seen:
    """What a client has of a stream."""

    text: str = ""
    last: str | None = None

    def take(self, data: str, event_id: str | None) -> None:
        assert event_id != self.last, "an event came twice"
        self.text, self.last = self.text + json.loads(data)["choices"][0]["text"], event_id


class Fleet:
    """Gateways on ports of their own, which are killed and started again."""

    def __init__(self, forks: Forkserver, redis_url: str, ports: list[int]) -> None:
        self._forks, self._redis_url, self.ports, self.kills = forks, redis_url, ports, 0
        self._processes: dict[int, Forked] = {port: self._start(port) for port in ports}

    def _start(self, port: int) -> Forked:
        command = [sys.executable, "-m", "headrace.cli", "gateway", "--no-auth", "--log-level", "error"]
        return self._forks.start([*command, "--port", str(port), "--redis", self._redis_url])

    async def kill(self, port: int) -> None:
        """kill -9, and another in its place, until that answers."""
        self._processes[port].kill()
        await asyncio.to_thread(self._processes[port].wait, WAIT_S)
        self.kills += 1
        self._processes[port] = await asyncio.to_thread(self._start, port)
        await self.answers(port)

    async def answers(self, port: int) -> None:
        """Wait until the gateway there accepts connections."""
        async with asyncio.timeout(WAIT_S):
            while True:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                except OSError:
                    await asyncio.sleep(0.01)
                    continue
                writer.close()
                return

    def close(self) -> None:
        for process in self._processes.values():
            process.kill()
            process.wait(WAIT_S)


@dataclass
class Audience:
    """Clients that follow streams, at whichever gateway there is."""

    ports: Sequence[int]
    texts: Sequence[str]
    over: asyncio.Event = field(default_factory=asyncio.Event)
    streams: int = 0
    resumed: int = 0

    async def ask(self, number: int) -> None:
        """Ask for one stream after the other until it is over; each must be whole."""
        async with httpx.AsyncClient(timeout=WAIT_S) as http:
            for turn in itertools.count():
                seed = (number + turn) % SEEDS
                seen = Seen()
                while not await self._go_on(http, f"storm-{number}-{turn}", seed, seen):
                    self.resumed += seen.last is not None
                assert seen.text == self.texts[seed]
                self.streams += 1
                if self.over.is_set():
                    return

    async def _go_on(self, http: httpx.AsyncClient, key: str, seed: int, seen: Seen) -> bool:
        """Read on at some gateway; whether the stream has ended."""
        url = f"http://127.0.0.1:{random.choice(self.ports)}/v1/completions"
        headers = {"idempotency-key": key} | ({} if seen.last is None else {"last-event-id": seen.last})
        asked = ASKED | {"seed": seed, "stream": True}
        try:
            async with http.stream("POST", url, json=asked, headers=headers) as response:
                assert response.status_code == 200
                event_id = None
                async for line in response.aiter_lines():
                    if line.startswith("id: "):
                        event_id = line[4:]
                    elif line == "data: [DONE]":
                        return True
                    elif line.startswith("data: "):
                        seen.take(line[6:], event_id)
        except httpx.TransportError:
            return False
        return False


async def test_no_stream_loses_or_repeats_anything_in_a_storm_of_kills(forks, stack_redis, capsys):
    from headrace.local.embedded_redis.ports import free_port

    with Client(stack_redis.url) as client:
        texts = [client.enqueue(**ASKED, seed=seed).result(timeout_s=WAIT_S).text for seed in range(SEEDS)]
    fleet = Fleet(forks, stack_redis.url, [free_port() for _ in range(GATEWAYS)])
    audience = Audience(fleet.ports, texts)

    async def kill() -> None:
        for _ in range(KILLS):
            await fleet.kill(random.choice(fleet.ports))
        audience.over.set()

    try:
        for port in fleet.ports:
            await fleet.answers(port)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(kill())
            for number in range(STREAMS):
                tasks.create_task(audience.ask(number))
    finally:
        fleet.close()
    with capsys.disabled():
        streams, resumed = audience.streams, audience.resumed
        print(f"\n{fleet.kills} gateways killed, {streams} streams whole, {resumed} times resumed")
    assert fleet.kills == KILLS
    assert audience.resumed > 0
