"""A storm over answers that must have a form: faults of every kind until enough streams have ended."""

import asyncio
import itertools
import random
import socket
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import httpx
import openai

from headrace.local.embedded_redis.ports import free_port

from ..support.processes import Restartable
from ..support.waiting import wait_until_async
from .faults import Faults
from .fleet import ENGINES, Fleet
from .forms import CANDIDATES, Answer, Form, model_with_tools, wrong
from .ledger import Ledger
from .storm import DRAWS_A_MINUTE, START_S, settle

GATEWAYS = 2
READERS = 12
BETWEEN_KILLS_S = 2.5
"""From one gateway's return to the next one's kill, in the mean."""

PAUSE_S = 0.1
GIVE_UP_S = 240.0
SERVER_ERROR = 500


@dataclass(frozen=True)
class Outcome:
    """What a storm left.

    Attributes:
        kinds: streams by kind of form.
        resumed: how often a stream was asked for again after some of it had been read.
        violations: broken promises.
    """

    seed: int
    seconds: float
    kinds: Counter[str]
    resumed: int
    ledger: Ledger
    violations: list[str]

    @property
    def summary(self) -> str:
        """The table of faults survived."""
        streams = ", ".join(f"{count} {kind}" for kind, count in sorted(self.kinds.items()))
        head = f"seed {self.seed}: {self.kinds.total()} streams ({streams}) in {self.seconds:.0f} s, "
        words = [f"{head}{self.resumed} times resumed", self.ledger.table()]
        return "\n".join([*words, f"{len(self.violations)} violations", *self.violations])

    def facts(self) -> dict[str, Any]:
        """For programs."""
        return {
            "seed": self.seed,
            "seconds": round(self.seconds, 1),
            "streams": dict(self.kinds),
            "resumed": self.resumed,
            "faults": self.ledger.faults.total(),
            "by_kind": self.ledger.facts(),
            "violations": self.violations,
        }


class Gateways:
    """Gateways that are killed and started again; a context manager."""

    def __init__(self, folder: Path, redis_url: str, ledger: Ledger, rng: random.Random) -> None:
        self._ledger, self._random = ledger, rng
        self._running: dict[int, Restartable] = {}
        for number in range(GATEWAYS):
            port, log = free_port(), folder / f"gateway-{number}.log"
            command = ("-m", "headrace.cli", "gateway", "--no-auth", "--port", str(port))
            self._running[port] = Restartable(*command, "--redis", redis_url, log=log, OMP_NUM_THREADS="1")
        self.clients = [
            openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="-", max_retries=0, timeout=30)
            for port in self._running
        ]

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for client in self.clients:
            await client.close()
        for gateway in self._running.values():
            gateway.kill()

    async def fall(self, enough: asyncio.Event) -> None:
        """Kill one after the other, until there have been enough."""
        while not enough.is_set():
            await asyncio.sleep(self._random.uniform(0.5, 1.5) * BETWEEN_KILLS_S)
            port = self._random.choice(list(self._running))
            self._ledger.strike("gateway killed", str(port), {})
            await asyncio.to_thread(self._running[port].kill)
            self._running[port].start()
            await wait_until_async(lambda port=port: _listens(port), START_S, "a gateway didn't start again")


@dataclass
class Audience:
    """Clients that stream forms, each to its end."""

    clients: Sequence[openai.AsyncOpenAI]
    rng: random.Random
    resumed: int = 0
    violations: list[str] = field(default_factory=list)

    async def stream(self, asked: Form, key: str) -> Answer:
        """One answer, asked for again for as long as its stream breaks."""
        furthest, until = Answer(), time.monotonic() + GIVE_UP_S
        while time.monotonic() < until:
            answer = Answer()
            await self._read(asked, key, answer)
            shorter, longer = sorted((furthest, answer), key=_length)
            if not longer.begins_with(shorter):
                self.violations.append(f"{key}: {shorter} became {longer}")
            if answer.finish_reason is not None:
                return answer
            furthest = longer
            self.resumed += _length(furthest) > 0
            await asyncio.sleep(PAUSE_S)
        self.violations.append(f"{key}: it has not ended after {GIVE_UP_S:.0f} s, and has {furthest}")
        return furthest

    async def _read(self, asked: Form, key: str, answer: Answer) -> None:
        headers = {"idempotency-key": key}
        try:
            stream = await self.rng.choice(self.clients).chat.completions.create(
                **asked.body, stream=True, extra_headers=headers
            )
            async with stream:
                async for chunk in stream:
                    answer.take(chunk)
        except openai.APIStatusError as error:
            if error.status_code < SERVER_ERROR:
                self.violations.append(f"{key}: {error}")
        except (openai.APIError, httpx.TransportError):
            answer.finish_reason = None


def _listens(port: int) -> bool:
    with socket.socket() as connection:
        return connection.connect_ex(("127.0.0.1", port)) == 0


def _length(answer: Answer) -> int:
    return len(answer.content) + len(answer.reasoning) + sum(map(len, answer.calls.values()))


async def forms_storm(
    streams: int,
    seed: int,
    folder: Path,
    say: Callable[[str], None] = lambda _: None,
    engines: Sequence[int] = ENGINES,
    candidates: int = len(CANDIDATES),
    draws_a_minute: float = DRAWS_A_MINUTE,
) -> Outcome:
    """Stream this many answers while faults rage; they are those of the candidates that end by themselves."""
    ledger, rng = Ledger(), random.Random(seed)
    model = str(model_with_tools(folder))
    with Fleet(folder, spare_engine=True, engines=engines, model=model) as fleet:
        await wait_until_async(lambda: fleet.all_ready, START_S, "not every engine process is ready")
        async with Gateways(folder, fleet.readers.url, ledger, rng) as gateways:
            audience = Audience(gateways.clients, rng)
            whole = await _undisturbed(audience, CANDIDATES[:candidates])
            say(f"{len(whole)} of {candidates} answers end before they are cut")
            chosen = _in_turn([asked for asked, _ in whole], streams)
            expected = {id(asked): answer for asked, answer in whole}
            audience.resumed, ledger.started = 0, time.monotonic()
            enough = asyncio.Event()
            keys = [f"storm-{seed}-{place}" for place in range(streams)]
            async with asyncio.TaskGroup() as beside:
                beside.create_task(_rage(Faults(fleet, ledger, seed), draws_a_minute, enough, say))
                beside.create_task(gateways.fall(enough))
                answers = await _all(audience, chosen, keys)
                raged_s = time.monotonic() - ledger.started
                enough.set()
        for key, asked, answer in zip(keys, chosen, answers, strict=True):
            if answer != expected[id(asked)]:
                audience.violations.append(f"{key}: {answer} instead of {expected[id(asked)]}")
        found = audience.violations + await settle(fleet)
    kinds = Counter(asked.kind for asked in chosen)
    return Outcome(seed, raged_s, kinds, audience.resumed, ledger, found)


async def _undisturbed(audience: Audience, forms: Sequence[Form]) -> list[tuple[Form, Answer]]:
    """What each that ends by itself gives while nothing happens; it has its form."""
    answers = await _all(audience, forms, [f"undisturbed-{place}" for place in range(len(forms))])
    found = [(asked, wrong(asked, answer)) for asked, answer in zip(forms, answers, strict=True)]
    audience.violations += [f"{asked.kind}: {missing}" for asked, missing in found if missing]
    pairs = zip(forms, answers, strict=True)
    return [(asked, answer) for asked, answer in pairs if answer.finish_reason != "length"]


def _in_turn(forms: Sequence[Form], count: int) -> list[Form]:
    """So many of them, the kinds by turns."""
    of = [[each for each in forms if each.kind == kind] for kind in ("schema", "tools", "reasoning")]
    turns = [itertools.cycle(each) for each in of if each]
    return [next(turns[place % len(turns)]) for place in range(count)]


async def _all(audience: Audience, forms: Sequence[Form], keys: Sequence[str]) -> list[Answer]:
    """An answer to each, at most `READERS` at once."""
    room = asyncio.Semaphore(READERS)

    async def one(asked: Form, key: str) -> Answer:
        async with room:
            return await audience.stream(asked, key)

    return await asyncio.gather(*map(one, forms, keys))


async def _rage(
    faults: Faults, draws_a_minute: float, enough: asyncio.Event, say: Callable[[str], None]
) -> None:
    """Let faults rage until there have been enough; each is brought to its end."""
    began = time.monotonic()
    while not enough.is_set():
        await faults.rage(3.0, draws_a_minute)
        say(f"{time.monotonic() - began:.0f} s of faults")
