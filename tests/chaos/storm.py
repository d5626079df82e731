"""A storm: real processes under load, faults from a seed, and the count of what broke."""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headrace import AsyncClient
from headrace.schemas.keys import is_permanent

from ..support.waiting import wait_until_async
from .faults import Faults
from .fleet import TAG, Fleet
from .ledger import Ledger
from .load import Load
from .witness import history, violations

START_S = 90.0
QUIET_S = 60.0
"""After the last fault every job must end within this time."""

DRAWS_A_MINUTE = 240.0
"""A third of them finds a target: starting an engine process again takes seconds."""


@dataclass(frozen=True)
class Outcome:
    """What a storm left.

    Attributes:
        violations: broken promises; none is the point of it all.
        histories: of the jobs that they name.
    """

    seed: int
    seconds: float
    jobs: int
    tokens: int
    ledger: Ledger
    violations: list[str]
    histories: list[str]

    @property
    def summary(self) -> str:
        """The table of faults survived; before it all that may explain what was not."""
        words = [
            f"seed {self.seed}: {self.jobs} jobs, {self.tokens} tokens, {self.seconds:.0f} s",
            self.ledger.table(),
            f"{len(self.violations)} violations",
            *self.violations,
        ]
        if self.violations:
            words = ["schedule:", *self.ledger.history, *self.histories, *words]
        return "\n".join(words)

    def facts(self) -> dict[str, Any]:
        """For programs."""
        return {
            "seed": self.seed,
            "seconds": round(self.seconds, 1),
            "jobs": self.jobs,
            "tokens": self.tokens,
            "faults": self.ledger.faults.total(),
            "by_kind": self.ledger.facts(),
            "violations": self.violations,
        }


async def storm(
    seconds: float, seed: int, folder: Path, say: Callable[[str], None] = lambda _: None
) -> Outcome:
    """Let faults rage for so long; logs go to `folder`."""
    ledger = Ledger()
    with Fleet(folder, spare_engine=True) as fleet:
        await wait_until_async(lambda: fleet.all_ready, START_S, "not every engine process is ready")
        async with AsyncClient(fleet.readers.url, retry_s=2.0) as client:
            load = Load(client, ledger, seed)
            uninterrupted = await load.uninterrupted()
            ledger.started = time.monotonic()
            enough = asyncio.Event()
            async with asyncio.TaskGroup() as beside:
                beside.create_task(load.keep_busy(enough))
                beside.create_task(_report(ledger, load, say, enough))
                await Faults(fleet, ledger, seed).rage(seconds, DRAWS_A_MINUTE)
                enough.set()
            raged_s = time.monotonic() - ledger.started
            await load.ended(QUIET_S)
        found = await settle(fleet)
        found += violations(fleet.control, TAG, load.jobs, uninterrupted)
        named = [job.job_id for job in load.jobs if any(job.job_id in sentence for sentence in found)]
        histories = [f"history of {job_id}:\n{history(fleet.control, job_id)}" for job_id in named[:5]]
    tokens = sum(len(job.tokens or ()) for job in load.jobs)
    return Outcome(seed, raged_s, len(load.jobs), tokens, ledger, found, histories)


async def settle(fleet: Fleet) -> list[str]:
    """Let the fleet come to rest and stop it; what it may not leave."""
    found: list[str] = []
    try:
        await wait_until_async(lambda: fleet.all_ready, START_S, "not every engine process came back")
        await wait_until_async(lambda: _all_idle(fleet), 10.0, "a worker still holds jobs or pages")
    except AssertionError as error:
        found.append(str(error))
    for host in fleet.hosts:
        await asyncio.to_thread(host.stop)
        found += host.complaints
    keys = [key.decode() for key in fleet.control.scan_iter(count=1000)]
    return found + [
        f"{key} stays for ever" for key in keys if fleet.control.ttl(key) == -1 and not is_permanent(key)
    ]


def _all_idle(fleet: Fleet) -> bool:
    workers = [fleet.control.hgetall(TAG.worker(engine.worker_id)) for engine in fleet.engines]
    return all(
        facts
        and facts[b"running"] == facts[b"waiting"] == b"0"
        and facts[b"pages_free"] == facts[b"pages_total"]
        for facts in workers
    )


async def _report(ledger: Ledger, load: Load, say: Callable[[str], None], enough: asyncio.Event) -> None:
    while not enough.is_set():
        with suppress(TimeoutError):
            await asyncio.wait_for(enough.wait(), 10)
        say(f"{ledger.faults.total()} faults, {len(load.jobs)} jobs")
