"""The faults of a storm, each a method, drawn from a seed with the weights below.

Faults overlap freely: an engine process may be killed while Redis is away. Two things only are spared, so
that the time from a fault to the next token says something: the last engine process that could go on, and a
Redis that is away already.
"""

import asyncio
import random
import signal
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from .fleet import LEASE_S, Engine, Fleet, Host
from .ledger import AGAIN, SEVERAL, Ledger


class Kind(NamedTuple):
    """How often a fault is drawn, and what kind of target it has; nothing happens when there is none."""

    weight: float
    target: str


KINDS = {
    "engine_killed": Kind(9.0, "engine"),
    "engine_frozen": Kind(4.0, "engine"),
    "host_killed": Kind(1.2, "host"),
    "host_stopped": Kind(1.2, "host"),
    "machine_lost": Kind(1.2, "host"),
    "network_cut": Kind(3.0, "host"),
    "network_broken": Kind(3.0, "host"),
    "readers_cut": Kind(0.4, "readers"),
    "readers_broken": Kind(0.4, "readers"),
    "connections_killed": Kind(1.0, "redis"),
    "scripts_flushed": Kind(0.7, "redis"),
    "clients_paused": Kind(0.5, "redis"),
    "redis_killed": Kind(0.6, "redis"),
    "redis_frozen": Kind(0.4, "redis"),
}

HAND_OVERS = {"host killed", "host stopped"}
"""Engine processes outlive these and give their jobs back."""

PAUSE_S = 1.5
FROZEN_S = 3.0
PAST_LEASE_S = LEASE_S + 0.7


class Faults:
    """Strikes a fleet by a schedule that follows from the seed."""

    def __init__(self, fleet: Fleet, ledger: Ledger, seed: int) -> None:
        self._fleet, self._ledger = fleet, ledger
        self._random = random.Random(seed)
        self._away_until = 0.0

    async def rage(self, seconds: float, per_minute: float) -> None:
        """Strike for so long, and wait until everything that was struck has been started again."""
        end = time.monotonic() + seconds
        async with asyncio.TaskGroup() as strikes:
            while (left := end - time.monotonic()) > 0:
                await asyncio.sleep(min(left, self._random.uniform(0.2, 1.8) * 60 / per_minute))
                (name,) = self._random.choices(list(KINDS), [kind.weight for kind in KINDS.values()])
                pick = self._random.random()
                there = self._targets()[KINDS[name].target]
                if there:
                    strikes.create_task(getattr(self, name)(there[int(pick * len(there))]))

    def _targets(self) -> dict[str, list[Any]]:
        """What can be struck now, by kind of target."""
        healthy = [engine for engine in self._fleet.engines if engine.healthy]
        at_work = {engine.host for engine in healthy}
        return {
            "engine": healthy if len(healthy) > 1 else [],
            "host": [host for host in self._fleet.hosts if host in at_work and at_work - {host}],
            "readers": [self._fleet] if self._fleet.readers.passes else [],
            "redis": [self._fleet] if not self._away else [],
        }

    # Processes --------------------------------------------------------------------------------------------

    async def engine_killed(self, engine: Engine) -> None:
        self._strike("engine killed", engine.worker_id, {engine.worker_id})
        engine.ready = False
        engine.signal(signal.SIGKILL)

    async def engine_frozen(self, engine: Engine) -> None:
        """A zombie: it wakes past its lease and finds its jobs with another."""
        self._strike("engine frozen", engine.worker_id, {engine.worker_id})
        engine.frozen = True
        engine.signal(signal.SIGSTOP)
        await asyncio.sleep(PAST_LEASE_S)
        engine.signal(signal.SIGCONT)
        engine.frozen = False

    async def host_killed(self, host: Host) -> None:
        self._strike("host killed", host.name, set(host.engines))
        await self._again(host, lambda: host.kill(with_engines=False))

    async def machine_lost(self, host: Host) -> None:
        self._strike("host, engines killed", host.name, set(host.engines))
        await self._again(host, lambda: host.kill(with_engines=True))

    async def host_stopped(self, host: Host) -> None:
        self._strike("host stopped", host.name, set(host.engines))
        await self._again(host, host.stop)

    async def _again(self, host: Host, end: Callable[[], object]) -> None:
        host.stopping = True
        await asyncio.to_thread(end)
        host.start()

    # The network ------------------------------------------------------------------------------------------

    async def network_cut(self, host: Host) -> None:
        self._strike("network cut", host.name, set(host.engines))
        host.proxy.cut()
        await asyncio.sleep(PAST_LEASE_S)
        host.proxy.heal()

    async def network_broken(self, host: Host) -> None:
        self._strike("network broken", host.name, set(host.engines))
        host.proxy.break_up()
        await asyncio.sleep(PAST_LEASE_S)
        host.proxy.heal()

    async def readers_cut(self, fleet: Fleet) -> None:
        self._strike("readers cut", "producers and readers", None)
        fleet.readers.cut()
        await asyncio.sleep(PAUSE_S)
        fleet.readers.heal()

    async def readers_broken(self, fleet: Fleet) -> None:
        self._strike("readers broken", "producers and readers", None)
        fleet.readers.break_up()
        await asyncio.sleep(self._random.random() / 2)
        fleet.readers.heal()

    # Redis ------------------------------------------------------------------------------------------------

    async def connections_killed(self, fleet: Fleet) -> None:
        self._strike("connections killed", "Redis", None)
        fleet.control.client_kill_filter(_type="normal", skipme=True)
        fleet.control.client_kill_filter(_type="pubsub", skipme=True)

    async def scripts_flushed(self, fleet: Fleet) -> None:
        self._strike("scripts flushed", "Redis", None)
        fleet.control.script_flush()

    async def clients_paused(self, fleet: Fleet) -> None:
        self._strike("clients paused", "Redis", None, away_s=PAUSE_S)
        fleet.control.client_pause(int(PAUSE_S * 1000))

    async def redis_killed(self, fleet: Fleet) -> None:
        self._strike("Redis killed", "Redis", None, away_s=FROZEN_S)
        fleet.redis.kill()
        await asyncio.sleep(self._random.random())
        await asyncio.to_thread(fleet.redis.start)

    async def redis_frozen(self, fleet: Fleet) -> None:
        self._strike("Redis frozen", "Redis", None, away_s=FROZEN_S)
        fleet.redis.kill(signal.SIGSTOP)
        await asyncio.sleep(FROZEN_S)
        fleet.redis.kill(signal.SIGCONT)

    # ------------------------------------------------------------------------------------------------------

    @property
    def _away(self) -> bool:
        """Whether Redis does not answer, or came back less than a lease ago."""
        return time.monotonic() < self._away_until

    def _strike(self, kind: str, target: str, workers: set[str] | None, away_s: float = 0.0) -> None:
        """Note it; while Redis is away nothing happens alone."""
        hit = self._fleet.running_jobs(workers)
        lethal = workers is not None and kind not in HAND_OVERS
        rows = {
            job_id: SEVERAL if self._away else AGAIN if lethal and deaths else kind
            for job_id, deaths in hit.items()
        }
        self._ledger.strike(kind, target, rows)
        if away_s:
            self._away_until = time.monotonic() + away_s + LEASE_S
