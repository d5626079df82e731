"""Hostile tenants among the load: what the others notice of them.

Innocents keep streams open all the time. A window without hostile tenants and one with them take turns, once
for each kind of attack; an attack that takes longer is cut into windows of that length. What is longest in
each window is what counts, and of several windows the median. A kind that seems to be felt is measured again:
other machines' work on these cores is not the fleet's fault. A storm in which nothing is compared has one
window without.

Jobs that end their engine processes come last, apart from what is compared: what is felt of them is how long
an engine process takes to start.
"""

import asyncio
import os
import signal
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from redis import Redis

from headrace import AsyncClient, Client
from headrace.schemas.redis.connection import connect

from ..support.waiting import wait_until_async
from .attacks import (
    ALLOWED_DELAYED,
    ATTACKS,
    GLUTTON_PROMPT,
    MALLORY,
    Attack,
    Sent,
    Site,
    attack,
    batches,
    give_way,
    gluttons,
    killers,
    withdraw,
)
from .audience import Watched
from .fleet import TAG, Fleet
from .hostile_report import Outcome, Share, Window
from .hostile_world import Callbacks, hostile_model, left_over
from .innocents import STREAMS, WEIGHTS, Innocents
from .load import SPECS, uninterrupted
from .receivers import Receivers
from .witness import Uninterrupted, job_violations

START_S = 180.0
QUIET_S = 120.0
"""Whatever was asked for must have ended by then."""

KILLERS_S = 300.0
"""The same of jobs for each of which several engine processes have to start."""

KILLERS, FEW_KILLERS = (3, 2), (2, 1)
"""How many there are, and how many attempts each may count: where things are compared, and where not."""

ATTACKERS = 2
ORIGINS = 300
PARTS = {"attacks": 0.65, "gluttons": 0.25}
"""Of the storm's time; the rest is the killers'."""

MOST_GLUTTONS_S = 120.0
NEVER_IDLE = 30
"""Jobs that wait for as long as shares are measured; the fleet has slots for fewer."""

ALL = "all at once"
SHORT_S = 30.0

AGAIN = 2
"""How often a kind that seems to be felt is measured again."""


@dataclass
class Storm:
    """One run.

    Attributes:
        outcome: what is known so far.
    """

    fleet: Fleet
    redis: Redis
    receivers: Receivers
    innocents: Innocents
    pool: ProcessPoolExecutor
    say: Callable[[str], None]
    outcome: Outcome
    killing: tuple[int, int]
    hostile: list[str] = field(default_factory=list)

    @property
    def _site(self) -> Site:
        return Site(self.fleet.redis.url, self.receivers.hanging, *self.killing)

    async def attacks(self, seconds: float, *, compared: bool) -> None:
        """Every kind in turn, and all of them at once, for about so long, and at least once.

        A storm in which nothing is compared has every kind in turn, or, a short one, all of them at once.
        """
        kinds = {name: [kind] for name, kind in ATTACKS.items()}
        if compared:
            kinds[ALL] = [*ATTACKS.values()]
        elif seconds < SHORT_S:
            kinds = {ALL: [*ATTACKS.values()]}
        window_s = min(6.0, seconds / len(kinds) / 6) if compared else 1.0
        give_up_at = time.monotonic() + seconds
        if not compared:
            await self._without(window_s)
        for name, attacks in kinds.items():
            await self._pair(name, attacks, window_s, compared=compared)
        while compared and time.monotonic() + 3 * window_s * len(kinds) < give_up_at:
            for name, attacks in kinds.items():
                await self._pair(name, attacks, window_s, compared=compared)
        for name, attacks in kinds.items():
            for _ in range(AGAIN):
                if compared and self.outcome.is_felt(name):
                    await self._pair(name, attacks, window_s, compared=compared)

    async def _pair(self, name: str, attacks: Sequence[Attack], window_s: float, *, compared: bool) -> None:
        """A window without the attacks, and one with them; what they left is cleared away."""
        if compared:
            await self._without(window_s)
        begin = time.time()
        carried_out = asyncio.gather(*(self._attack(each) for each in attacks))
        _, sent = await asyncio.gather(asyncio.sleep(window_s), carried_out)
        silence_s = self._note(name, begin, window_s)
        self.outcome.asked(name, sum(len(each.jobs) for each in sent), sum(each.refused for each in sent))
        self.say(f"{name}: longest silence {silence_s:.2f} s")
        await self._clear(name, [job_id for each in sent for job_id in each.jobs])

    async def _without(self, window_s: float) -> None:
        begin = time.time()
        await asyncio.sleep(window_s)
        self._note("", begin, window_s)

    def _note(self, kind: str, begin: float, window_s: float) -> float:
        """The longest silence of windows that are all as long: in longer ones it would be longer."""
        count = max(1, int((time.time() - begin) / window_s))
        for at in (begin + number * window_s for number in range(count)):
            self.outcome.windows.append(
                Window(kind, at, at + window_s, self.innocents.felt(at, at + window_s))
            )
        return max(window.felt.silence_s for window in self.outcome.windows[-count:])

    async def _attack(self, kind: Attack) -> Sent:
        sent = await self._elsewhere(attack, kind, self._site)
        self.hostile += sent.jobs
        self.outcome.violations += [f"{kind.__name__}: {problem}" for problem in sent.problems]
        return sent

    async def _elsewhere(self, work: Callable[..., Any], *args: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self.pool, work, *args)

    async def _clear(self, name: str, job_ids: Sequence[str]) -> None:
        """Withdraw an attack; its jobs end, and the innocents' streams go on."""
        self.outcome.violations += await self._elsewhere(withdraw, self._site, await self._unended(job_ids))
        await self._ended(name, job_ids)
        if not await self.innocents.all_going_on(QUIET_S):
            self.outcome.violations.append(f"streams stand still {QUIET_S:.0f} s after {name}")

    async def _ended(self, name: str, job_ids: Sequence[str], within_s: float = QUIET_S) -> None:
        give_up_at = time.monotonic() + within_s
        while job_ids := await self._unended(job_ids):
            if time.monotonic() > give_up_at:
                self.outcome.violations.append(f"{len(job_ids)} jobs of {name} never end: {job_ids[:3]}")
                return
            await asyncio.sleep(0.2)

    async def _unended(self, job_ids: Sequence[str]) -> list[str]:
        """Asked for a few at a time: the streams' readers have this process's interpreter too."""
        found: list[str] = []
        for batch in batches(job_ids):
            states = await asyncio.to_thread(_states, self.redis, batch)
            found += [job_id for job_id, state in zip(batch, states, strict=True) if state in _UNENDED]
        return found

    async def gluttons(self, seconds: float, early: Sequence[int]) -> None:
        """Everybody has jobs waiting; who is served how many tokens, prompts included.

        The innocents ask for many tokens and take few, Mallory takes all that it asks for.
        """
        seconds = min(seconds, MOST_GLUTTONS_S)
        enough = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            for tenant, weight in WEIGHTS.items():
                for _ in range(STREAMS + 2 * STREAMS * weight):
                    group.create_task(self.innocents.keep_streaming(tenant, early, enough))
            sent = await self._attack(gluttons)
            await asyncio.sleep(0.2 * seconds)  # until everybody's jobs are at work
            before = await self._served(sent.jobs)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._waiting_are_few(sent.jobs), 0.8 * seconds)
            after = await self._served(sent.jobs)
            enough.set()
            await self._clear("gluttons", sent.jobs)
        weights = {**WEIGHTS, MALLORY: 1}
        self.outcome.shares = [
            Share(tenant, weight, after[tenant] - before[tenant]) for tenant, weight in weights.items()
        ]
        self.say(f"gluttons: {sum(share.tokens for share in self.outcome.shares)} tokens")

    async def _waiting_are_few(self, job_ids: Sequence[str]) -> None:
        while True:
            states = await asyncio.to_thread(_states, self.redis, job_ids)
            if states.count(b"queued") < NEVER_IDLE:
                return
            await asyncio.sleep(0.2)

    async def _served(self, gluttons: Sequence[str]) -> dict[str, int]:
        """Tokens of each tenant so far."""
        offsets = await asyncio.to_thread(_offsets, self.redis, gluttons)
        begun = [offset for offset in offsets if offset]
        return {**self.innocents.served(), MALLORY: sum(begun) + len(GLUTTON_PROMPT) * len(begun)}

    async def killers(self) -> None:
        """Several jobs that end their engine process, and nobody else's jobs may pay for it."""
        begin = time.time()
        sent = await self._attack(killers)
        await self._ended("killers", sent.jobs, KILLERS_S)
        if not await self.innocents.all_going_on(KILLERS_S):
            self.outcome.violations.append(f"streams stand still {KILLERS_S:.0f} s after killers")
        silence_s = self._note("killers", begin, time.time() - begin)
        self.outcome.asked("killers", len(sent.jobs), sent.refused)
        self.say(f"killers: longest silence {silence_s:.2f} s")
        for job_id in sent.jobs:
            state, attempts = self.redis.hmget(TAG.job(job_id), "state", "attempts")
            allowed = self.killing[1]
            if (state, attempts) != (b"failed", b"%d" % allowed):
                self.outcome.violations.append(
                    f"killer {job_id} ended {state!r} after {attempts!r} attempts of {allowed}"
                )


_UNENDED = {b"queued", b"running", b"delayed"}


def _states(redis: Redis, job_ids: Sequence[str]) -> list[bytes | None]:
    pipe = redis.pipeline(transaction=False)
    for job_id in job_ids:
        pipe.hget(TAG.job(job_id), "state")
    return list(pipe.execute())


def _offsets(redis: Redis, job_ids: Sequence[str]) -> list[int]:
    pipe = redis.pipeline(transaction=False)
    for job_id in job_ids:
        pipe.hget(TAG.job(job_id), "offset")
    return [int(offset or 0) for offset in pipe.execute()]


def early_enders(outputs: Sequence[Uninterrupted]) -> list[dict[str, Any]]:
    """Specifications that ask for a thousand tokens and end after some tens."""
    return [
        {**SPECS[number], "max_tokens": 1000, "stop_token_ids": [output.tokens[-1]]}
        for number, output in enumerate(outputs)
        if "stop" not in SPECS[number] and len(output.tokens) < 110
    ]


async def hostile_storm(
    seconds: float, folder: Path, say: Callable[[str], None] = lambda _: None, *, compared: bool = True
) -> Outcome:
    """Let hostile tenants at a fleet for so long.

    Args:
        compared: how long the others wait is judged, and who is served how much; that takes minutes.
    """
    outcome = Outcome(compared)
    started = time.monotonic()
    model = hostile_model(folder)
    settings = {
        "model": str(model),
        "served_name": TAG.model,
        "num_pages": 1024,
        "lease_s": 3.0,
        "intake_s": 8.0,
    }
    with (
        Fleet(
            folder,
            engines=(1, 1),
            engine="tests.chaos.hostile_engine",
            statuses=frozenset({0, -signal.SIGSEGV}),
            direct=True,
            **settings,
        ) as fleet,
        Callbacks(fleet.redis.url, folder / "callbacks.log") as callbacks,
        connect(fleet.redis.url) as redis,
        ProcessPoolExecutor(ATTACKERS, get_context("spawn"), initializer=give_way) as pool,
    ):
        for _ in range(ATTACKERS):
            pool.submit(os.getpid)  # which starts them, while the engine processes start
        await wait_until_async(lambda: fleet.all_ready, START_S, "not every engine process is ready")
        async with Receivers(ORIGINS) as receivers, AsyncClient(fleet.redis.url) as client:
            await asyncio.to_thread(_set_policies, fleet.redis.url)
            jobs, outputs = await uninterrupted(client, SPECS)
            specs = [*SPECS, *early_enders(outputs)]
            more, ended_early = await uninterrupted(client, specs[len(SPECS) :])
            prompts = [await _prompt_tokens(client, job) for job in (*jobs, *more)]
            innocents = Innocents(client, specs, prompts, receivers.url)
            killing = KILLERS if compared else FEW_KILLERS
            storm = Storm(fleet, redis, receivers, innocents, pool, say, outcome, killing)
            async with asyncio.TaskGroup() as group:
                for number in range(STREAMS * len(WEIGHTS)):
                    tenant = [*WEIGHTS][number % len(WEIGHTS)]
                    which = [*range(number, len(SPECS)), *range(number)]
                    group.create_task(innocents.keep_streaming(tenant, which))
                await asyncio.sleep(1.0)
                await storm.attacks(PARTS["attacks"] * seconds, compared=compared)
                receivers.let_go()
                if compared:
                    await storm.gluttons(PARTS["gluttons"] * seconds, range(len(SPECS), len(specs)))
                await storm.killers()
                innocents.stopping.set()
            outcome.seconds = time.monotonic() - started
            await _settle(storm, callbacks)
        _judge(storm, [*jobs, *more], [*outputs, *ended_early])
    return outcome


async def _prompt_tokens(client: AsyncClient, ended: Watched) -> int:
    return (await client.job(ended.job_id).result()).usage.prompt_tokens


def _set_policies(url: str) -> None:
    with Client(url) as client:
        for tenant, weight in WEIGHTS.items():
            client.admin.set_tenant(tenant, weight=weight)
        client.admin.set_tenant(MALLORY, weight=1, max_queued_jobs=ALLOWED_DELAYED)


async def _settle(storm: Storm, callbacks: Callbacks) -> None:
    """Everybody's webhooks arrive, engine processes have come back, and the fleet is stopped."""
    wanted = {(job.job_id, f"job.{job.end}") for job in storm.innocents.jobs if job.end is not None}
    try:
        await wait_until_async(lambda: wanted <= storm.receivers.heard.keys(), QUIET_S, "webhooks")
    except AssertionError:
        missing = wanted - storm.receivers.heard.keys()
        storm.outcome.violations.append(f"{len(missing)} webhooks did not arrive: {sorted(missing)[:3]}")
    await wait_until_async(lambda: storm.fleet.all_ready, START_S, "not every engine process came back")
    for host in storm.fleet.hosts:
        await asyncio.to_thread(host.stop)
    await asyncio.to_thread(callbacks.stop)
    storm.outcome.violations += callbacks.complaints


def _judge(storm: Storm, others: Sequence[Watched], outputs: Sequence[Uninterrupted]) -> None:
    """What must hold whatever the machine's pace."""
    fleet, outcome, redis = storm.fleet, storm.outcome, storm.redis
    for job in storm.innocents.jobs:
        outcome.violations += [
            f"{job.job_id}: {wrong}" for wrong in job_violations(redis, job, outputs[job.spec])
        ]
        attempts = int(redis.hget(TAG.job(job.job_id), "attempts") or 0)
        if attempts:
            died = redis.hget(TAG.job(job.job_id), "history")
            outcome.violations.append(f"{job.job_id}: {attempts} attempts counted, none its own: {died!r}")
        ended = redis.hget(TAG.job(job.job_id), "finished_ms")
        heard = storm.receivers.heard.get((job.job_id, f"job.{job.end}"))
        if ended is not None and heard is not None:
            outcome.webhooks.append((int(ended) / 1000, heard - int(ended) / 1000))
    outcome.jobs = len(storm.innocents.jobs)
    outcome.tokens = sum(len(job.tokens or ()) for job in storm.innocents.jobs)
    deaths = [status for host in fleet.hosts for status in host.deaths if status != 0]
    outcome.deaths = len(deaths)
    killers, attempts = storm.killing
    if len(deaths) > killers * (1 + attempts):  # what dies in company counts no attempt
        outcome.violations.append(f"{len(deaths)} engine processes died of {killers} killers: {deaths}")
    outcome.violations += [complaint for host in fleet.hosts for complaint in host.complaints]
    known = {job.job_id for job in (*storm.innocents.jobs, *others)} | {*storm.hostile}
    outcome.violations += left_over(redis, TAG, known)
