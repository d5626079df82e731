"""Hostile tenants among the load: what the others notice of them.

Innocents keep streams open all the time. A window without hostile tenants and one with them take turns, once
for each kind of attack; what is longest in each window is what counts, and of several windows the median. A
kind that seems to be felt is measured again: other machines' work on these cores is not the fleet's fault.
"""

import asyncio
import signal
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from redis import Redis

from headrace import AsyncClient, Client
from headrace.producers.tenants import set_policy
from headrace.schemas.connection import connect
from headrace.schemas.tenants import TenantPolicy

from .attacks import (
    ALLOWED_DELAYED,
    ATTACKS,
    KILLER_ATTEMPTS,
    KILLERS,
    MALLORY,
    Attack,
    Sent,
    Site,
    attack,
    batches,
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
from .storm import until
from .witness import Uninterrupted, job_violations

START_S = 180.0
QUIET_S = 60.0
"""Whatever was asked for must have ended by then."""

ORIGINS = 300
PARTS = {"attacks": 0.65, "gluttons": 0.25}
"""Of the storm's time; the rest is the killers'."""

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
    hostile: list[str] = field(default_factory=list)

    @property
    def _site(self) -> Site:
        return Site(self.fleet.redis.url, self.receivers.hanging)

    async def attacks(self, seconds: float, *, compared: bool) -> None:
        """Every kind in turn, and all of them at once, for about so long, and at least once."""
        kinds = {**{name: [kind] for name, kind in ATTACKS.items()}, "all at once": [*ATTACKS.values()]}
        window_s = max(1.0, min(6.0, seconds / len(kinds) / (3 if compared else 2)))
        give_up_at = time.monotonic() + seconds
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
            begin = time.time()
            await asyncio.sleep(window_s)
            self._note("", begin)
        begin = time.time()
        carried_out = asyncio.gather(*(self._attack(each) for each in attacks))
        _, sent = await asyncio.gather(asyncio.sleep(window_s), carried_out)
        window = self._note(name, begin)
        self.outcome.asked(name, sum(len(each.jobs) for each in sent), sum(each.refused for each in sent))
        self.say(f"{name}: longest silence {window.felt.silence_s:.2f} s")
        await self._clear(name, [job_id for each in sent for job_id in each.jobs])

    def _note(self, kind: str, begin: float) -> Window:
        window = Window(kind, begin, time.time(), self.innocents.felt(begin, time.time()))
        self.outcome.windows.append(window)
        return window

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

    async def _ended(self, name: str, job_ids: Sequence[str]) -> None:
        give_up_at = time.monotonic() + QUIET_S
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
        """Everybody has jobs waiting; who is served how many tokens.

        The innocents ask for many tokens and take few, Mallory takes all that it asks for.
        """
        enough = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            for tenant, weight in WEIGHTS.items():
                for _ in range(STREAMS + 2 * STREAMS * weight):
                    group.create_task(self.innocents.keep_streaming(tenant, early, enough))
            sent = await self._attack(gluttons)
            await asyncio.sleep(0.2 * seconds)  # until everybody's jobs are at work
            before = await self._served(sent.jobs)
            await asyncio.sleep(0.8 * seconds)
            after = await self._served(sent.jobs)
            enough.set()
        await self._clear("gluttons", sent.jobs)
        weights = {**WEIGHTS, MALLORY: 1}
        self.outcome.shares = [
            Share(tenant, weight, after[tenant] - before[tenant]) for tenant, weight in weights.items()
        ]

    async def _served(self, gluttons: Sequence[str]) -> dict[str, int]:
        """Output tokens of each tenant so far."""
        tokens: dict[str, int] = defaultdict(int)
        for job in self.innocents.jobs:
            tokens[job.fields["tenant"]] += len(job.tokens or ())
        for batch in batches(gluttons):
            tokens[MALLORY] += sum(await asyncio.to_thread(_offsets, self.redis, batch))
        return tokens

    async def killers(self) -> None:
        """Several jobs that end their engine process, and nobody else's jobs may pay for it."""
        begin = time.time()
        sent = await self._attack(killers)
        await self._ended("killers", sent.jobs)
        await self.innocents.all_going_on(QUIET_S)
        window = self._note("killers", begin)
        self.outcome.asked("killers", len(sent.jobs), sent.refused)
        self.say(f"killers: longest silence {window.felt.silence_s:.2f} s")
        for job_id in sent.jobs:
            state, attempts = self.redis.hmget(TAG.job(job_id), "state", "attempts")
            if (state, attempts) != (b"failed", b"%d" % KILLER_ATTEMPTS):
                self.outcome.violations.append(
                    f"killer {job_id} ended {state!r} after {attempts!r} attempts of {KILLER_ATTEMPTS}"
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
    """Let hostile tenants at a fleet for so long; `compared`, how long the others wait is judged."""
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
        ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool,
    ):
        await until(lambda: fleet.all_ready, START_S, "not every engine process is ready")
        async with Receivers(ORIGINS) as receivers, AsyncClient(fleet.redis.url) as client:
            await asyncio.to_thread(_set_policies, fleet.redis.url)
            jobs, outputs = await uninterrupted(client, SPECS)
            specs = [*SPECS, *early_enders(outputs)]
            more, ended_early = await uninterrupted(client, specs[len(SPECS) :])
            innocents = Innocents(client, specs, receivers.url)
            storm = Storm(fleet, redis, receivers, innocents, pool, say, outcome)
            async with asyncio.TaskGroup() as group:
                for number in range(STREAMS * len(WEIGHTS)):
                    tenant = [*WEIGHTS][number % len(WEIGHTS)]
                    which = [*range(number, len(SPECS)), *range(number)]
                    group.create_task(innocents.keep_streaming(tenant, which))
                await asyncio.sleep(1.0)
                await storm.attacks(PARTS["attacks"] * seconds, compared=compared)
                receivers.let_go()
                await storm.gluttons(PARTS["gluttons"] * seconds, range(len(SPECS), len(specs)))
                await storm.killers()
                innocents.stopping.set()
            outcome.seconds = time.monotonic() - started
            await _settle(storm, callbacks)
        _judge(storm, [*jobs, *more], [*outputs, *ended_early])
    return outcome


def _set_policies(url: str) -> None:
    with Client(url) as client:
        for tenant, weight in WEIGHTS.items():
            client._run(set_policy(client._operations, tenant, TenantPolicy(weight=weight)))
        policy = TenantPolicy(weight=1, max_queued_jobs=ALLOWED_DELAYED)
        client._run(set_policy(client._operations, MALLORY, policy))


async def _settle(storm: Storm, callbacks: Callbacks) -> None:
    """Everybody's webhooks arrive, the fleet comes to rest and is stopped."""
    wanted = {(job.job_id, f"job.{job.end}") for job in storm.innocents.jobs if job.end is not None}
    try:
        await until(lambda: wanted <= storm.receivers.heard.keys(), QUIET_S, "webhooks")
    except AssertionError:
        missing = wanted - storm.receivers.heard.keys()
        storm.outcome.violations.append(f"{len(missing)} webhooks did not arrive: {sorted(missing)[:3]}")
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
    if len(deaths) > KILLERS * KILLER_ATTEMPTS:
        outcome.violations.append(f"{len(deaths)} engine processes died of {KILLERS} killers: {deaths}")
    outcome.violations += [complaint for host in fleet.hosts for complaint in host.complaints]
    known = {job.job_id for job in (*storm.innocents.jobs, *others)} | {*storm.hostile}
    outcome.violations += left_over(redis, TAG, known)
