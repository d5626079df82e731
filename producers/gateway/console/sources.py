"""What the console shows, in sections, read through the clients as any operator's program would."""

import time
from collections.abc import Mapping
from typing import Any

from ....schemas.events import JobState
from ...async_client import AsyncClient
from ...batches.batches import Batches
from ...operate.overview import WorkerInfo
from .dashboard import Dashboard, Source
from .rates import Rates, union

LETTERS = DELIVERIES = BATCHES = 50
"""How many of each are shown, the newest ones."""

RUNNING, NEWEST = 300, 500
"""How many running jobs, and how many of the newest ones, are looked at in a round."""

NEWEST_S = 120.0
"""A job that is older than this and no longer runs has nothing new to report."""

RARELY = 3
"""What changes rarely is read once in this many rounds."""


def dashboard_of(client: AsyncClient, batches: Batches) -> Dashboard:
    """The dashboard of a gateway process."""
    sources = Sources(client, batches)
    return Dashboard(
        (
            Source("queues", sources.queues),
            Source("workers", sources.workers),
            Source("jobs", sources.jobs),
            Source("batches", sources.batches, RARELY),
            Source("tenants", sources.tenants, RARELY),
            Source("dead letters", sources.dead, RARELY),
            Source("deliveries", sources.deliveries, RARELY),
        ),
        once=frozenset({"history"}),
    )


class Sources:
    """Reads each part of the console."""

    def __init__(self, client: AsyncClient, batches: Batches) -> None:
        self._client, self._batches = client, batches
        self._heard: dict[str, tuple[int, float]] = {}
        self._rates = Rates()

    async def queues(self) -> Mapping[str, Any]:
        """The models, the lanes with jobs, and what an operator has paused."""
        models, queues = await self._client.models(), await self._client.queues()
        return {
            "pauses": [pause.model_dump(mode="json") for pause in await self._client.admin.pauses()],
            "models": [model.model_dump(mode="json") for model in models],
            "queues": [queue.model_dump(mode="json") for queue in queues],
        }

    async def workers(self) -> Mapping[str, Any]:
        """The workers, each with how long it has been silent."""
        workers = await self._client.workers()
        now = time.monotonic()
        before = self._heard
        self._heard = {worker.id: _heard(worker, before.get(worker.id), now) for worker in workers}
        fields = set(WorkerInfo.model_fields) - {"pid", "fingerprint", "heartbeat_ms"}
        return {
            "workers": [
                worker.model_dump(include=fields) | {"silent_s": int(now - self._heard[worker.id][1])}
                for worker in workers
            ]
        }

    async def jobs(self) -> Mapping[str, Any]:
        """The running jobs, and the rates that these and the newest jobs show."""
        newest = await self._client.admin.jobs(limit=NEWEST, max_age_s=NEWEST_S)
        running = await self._client.admin.jobs(state=JobState.RUNNING, limit=RUNNING)
        return self._rates.observe(union(running.jobs, newest.jobs))

    async def batches(self) -> Mapping[str, Any]:
        """The unfinished batches, with how far they are."""
        batches = await self._batches.unfinished(limit=BATCHES)
        fields = {"id", "total", "completed", "failed"}
        return {
            "batches": [
                batch.model_dump(include=fields)
                | {
                    "tenant": batch.asked.tenant,
                    "created_ms": 1000 * batch.asked.created_at,
                    "status": batch.body()["status"],
                }
                for batch in batches
            ]
        }

    async def tenants(self) -> Mapping[str, Any]:
        """The tenants' policies."""
        policies = await self._client.admin.tenants()
        return {"tenants": [{"tenant": name, **policy.model_dump()} for name, policy in policies.items()]}

    async def dead(self) -> Mapping[str, Any]:
        """The newest dead letters."""
        letters = await self._client.admin.dead_letters(limit=LETTERS)
        return {"dead": [letter.model_dump() | {"has_job": letter.has_job} for letter in letters]}

    async def deliveries(self) -> Mapping[str, Any]:
        """The newest webhook deliveries, each with its last attempt."""
        deliveries = await self._client.admin.deliveries(limit=DELIVERIES)
        return {
            "deliveries": [
                delivery.model_dump(mode="json", exclude={"history"})
                | {"last": delivery.last.model_dump() if delivery.history else None}
                for delivery in deliveries
            ]
        }


def _heard(worker: WorkerInfo, before: tuple[int, float] | None, now: float) -> tuple[int, float]:
    """The worker's last heartbeat and when it was seen first, by this process's clock."""
    if before is not None and before[0] == worker.heartbeat_ms:
        return before
    return worker.heartbeat_ms, now
