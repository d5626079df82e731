"""The operator's side of an asyncio client: `client.admin`."""

import asyncio
from collections.abc import Awaitable, Mapping, Sequence
from typing import Protocol, TypeVar, Unpack

from ...schemas.access import ApiKey, NewApiKey
from ...schemas.adapters import ModelAdapter
from ...schemas.events import JobState
from ...schemas.job import JobClass
from ...schemas.routes import ModelRoute, Routed
from ...schemas.tenants import TenantLimits, TenantPolicy
from ...schemas.webhooks.delivery import Delivery, DeliveryState, TenantSecret
from ..operations import Operations
from ..routing import ModelRequest, keep_routed, routed_models
from ..steps import Steps
from . import (
    access,
    adapters,
    dead,
    deliveries,
    doctor,
    jobs,
    models,
    overview,
    pauses,
    purge,
    rates,
    responses,
    retry,
    routes,
    secrets,
    tenants,
)
from .chosen import Chosen
from .dead import DeadLetter, DeadLetterDetails
from .findings import Finding
from .jobs import JobPage, Wanted
from .models import ModelInfo
from .overview import QueueInfo, WorkerInfo
from .pauses import PausedQueue
from .rates import RatesLeft
from .responses import StoredResponse

T = TypeVar("T")


class RunAsync(Protocol):
    """Performs an operation by awaiting."""

    def __call__(self, steps: Steps[T], /) -> Awaitable[T]: ...


class AsyncAdmin:
    """The operator's side of an `AsyncClient`: `Admin` with `await`."""

    __slots__ = ("_operations", "_run", "_url")

    def __init__(self, operations: Operations, run: RunAsync, url: str) -> None:
        self._operations, self._run, self._url = operations, run, url

    async def dead_letters(self, model: str | None = None, *, limit: int | None = 100) -> list[DeadLetter]:
        """See `Admin.dead_letters`."""
        return await self._run(dead.read_dead(self._operations, model, limit))

    async def dead_letter(self, name: str) -> DeadLetterDetails:
        """See `Admin.dead_letter`."""
        return await self._run(dead.show_dead(self._operations, name))

    async def requeue_dead_letter(self, letter: DeadLetter | str, *, from_scratch: bool = False) -> str:
        """See `Admin.requeue_dead_letter`."""
        return await self._run(dead.requeue_letter(self._operations, letter, from_scratch=from_scratch))

    async def drop_dead_letter(self, letter: DeadLetter | str) -> str:
        """See `Admin.drop_dead_letter`."""
        return await self._run(dead.drop_letter(self._operations, letter))

    async def tenants(self) -> dict[str, TenantPolicy]:
        """See `Admin.tenants`."""
        return await self._run(tenants.list_policies(self._operations))

    async def tenant(self, tenant: str) -> TenantPolicy:
        """See `Admin.tenant`."""
        return await self._run(tenants.policy_of(self._operations, tenant))

    async def set_tenant(self, tenant: str, **limits: Unpack[TenantLimits]) -> TenantPolicy:
        """See `Admin.set_tenant`."""
        return await self._run(tenants.set_policy(self._operations, tenant, limits))

    async def rates(self, tenant: str, model: str) -> RatesLeft:
        """See `Admin.rates`."""
        return await self._run(rates.read_rates(self._operations, tenant, model))

    async def drop_tenant(self, tenant: str) -> None:
        """See `Admin.drop_tenant`."""
        await self._run(tenants.drop_policy(self._operations, tenant))

    async def secrets(self, tenant: str) -> list[TenantSecret]:
        """See `Admin.secrets`."""
        return await self._run(secrets.read_all(self._operations, tenant))

    async def add_secret(self, tenant: str, secret: str | None = None) -> TenantSecret:
        """See `Admin.add_secret`."""
        return await self._run(secrets.add(self._operations, tenant, secret))

    async def drop_secret(self, tenant: str, secret_id: str) -> int:
        """See `Admin.drop_secret`."""
        return await self._run(secrets.drop(self._operations, tenant, secret_id))

    async def api_keys(self) -> list[ApiKey]:
        """See `Admin.api_keys`."""
        return await self._run(access.list_api_keys(self._operations))

    async def create_api_key(
        self,
        tenant: str,
        *,
        name: str = "",
        models: Sequence[str] | None = None,
        classes: Sequence[JobClass | str] | None = None,
        webhook_hosts: Sequence[str] | None = None,
        expires_s: float | None = None,
        operator: bool = False,
    ) -> NewApiKey:
        """See `Admin.create_api_key`."""
        fields: dict[str, object] = {name: value for name, value in locals().items() if name != "self"}
        return await self._run(access.create_api_key(self._operations, fields))

    async def revoke_api_key(self, key_id: str) -> ApiKey:
        """See `Admin.revoke_api_key`."""
        return await self._run(access.revoke_api_key(self._operations, key_id))

    async def check_api_key(self, key: str) -> ApiKey:
        """See `Admin.check_api_key`."""
        return await self._run(access.check_api_key(self._operations, key))

    async def adapters(self) -> dict[str, ModelAdapter]:
        """See `Admin.adapters`."""
        return await self._run(adapters.list_adapters(self._operations))

    async def load_adapter(
        self, name: str, source: str, *, model: str | None = None, fingerprint: str | None = None
    ) -> ModelAdapter:
        """See `Admin.load_adapter`."""
        return await self._run(adapters.load_adapter(self._operations, name, source, model, fingerprint))

    async def drop_adapter(self, name: str) -> None:
        """See `Admin.drop_adapter`."""
        await self._run(adapters.drop_adapter(self._operations, name))

    async def routes(self) -> dict[str, ModelRoute]:
        """See `Admin.routes`."""
        return await self._run(routes.list_routes(self._operations))

    async def set_route(self, alias: str, targets: Mapping[str, int]) -> ModelRoute:
        """See `Admin.set_route`."""
        return await self._run(routes.set_route(self._operations, alias, targets))

    async def drop_route(self, alias: str) -> None:
        """See `Admin.drop_route`."""
        await self._run(routes.drop_route(self._operations, alias))

    async def routed_model(
        self,
        model: str,
        *,
        who: str | None = None,
        tenant: str = "default",
        idempotency_key: str | None = None,
    ) -> Routed:
        """See `Admin.routed_model`."""
        asked = ModelRequest(model, who, tenant, idempotency_key)
        (routed,) = await self._run(routed_models(self._operations, [asked]))
        return routed

    async def keep_routed(self, routed: Routed) -> None:
        """See `Admin.keep_routed`."""
        await self._run(keep_routed(self._operations, [routed]))

    async def deliveries(
        self, *, state: DeliveryState | str | None = None, limit: int = 100
    ) -> list[Delivery]:
        """See `Admin.deliveries`."""
        return await self._run(deliveries.list_deliveries(self._operations, state=state, limit=limit))

    async def delivery(self, delivery_id: str) -> Delivery:
        """See `Admin.delivery`."""
        return await self._run(deliveries.find_delivery(self._operations, delivery_id))

    async def replay_delivery(self, delivery_id: str) -> None:
        """See `Admin.replay_delivery`."""
        await self._run(deliveries.replay(self._operations, delivery_id))

    async def workers(self) -> list[WorkerInfo]:
        """See `Admin.workers`."""
        return await self._run(overview.read_workers(self._operations))

    async def drain_worker(self, worker_id: str, *, finish_s: float = 0.0) -> WorkerInfo:
        """See `Admin.drain_worker`."""
        return await self._run(overview.drain_worker(self._operations, worker_id, finish_s))

    async def jobs(
        self,
        model: str | None = None,
        *,
        state: JobState | str | None = None,
        job_class: JobClass | str | None = None,
        tenant: str | None = None,
        metadata: Mapping[str, str] | None = None,
        min_age_s: float | None = None,
        max_age_s: float | None = None,
        limit: int = 100,
        cursor: str | None = None,
    ) -> JobPage:
        """See `Admin.jobs`."""
        wanted = Wanted.of(Chosen.of(job_class, tenant), state, metadata, min_age_s, max_age_s)
        return await self._run(jobs.list_jobs(self._operations, model, wanted, limit, cursor))

    async def retry(self, job_id: str) -> str:
        """See `Admin.retry`."""
        return await self._run(retry.retry_job(self._operations, job_id))

    async def queues(self) -> list[QueueInfo]:
        """See `Admin.queues`."""
        return await self._run(overview.read_queues(self._operations))

    async def pause(
        self, model: str, *, job_class: JobClass | str | None = None, tenant: str | None = None
    ) -> None:
        """See `Admin.pause`."""
        await self._run(pauses.pause_queue(self._operations, model, Chosen.of(job_class, tenant)))

    async def resume(
        self, model: str, *, job_class: JobClass | str | None = None, tenant: str | None = None
    ) -> bool:
        """See `Admin.resume`."""
        return await self._run(pauses.resume_queue(self._operations, model, Chosen.of(job_class, tenant)))

    async def pauses(self) -> list[PausedQueue]:
        """See `Admin.pauses`."""
        return await self._run(pauses.read_pauses(self._operations))

    async def purge(
        self,
        model: str,
        *,
        job_class: JobClass | str | None = None,
        tenant: str | None = None,
        delayed: bool = False,
    ) -> int:
        """See `Admin.purge`."""
        chosen = Chosen.of(job_class, tenant)
        return await self._run(purge.purge_queue(self._operations, model, chosen, delayed=delayed))

    async def models(self) -> list[ModelInfo]:
        """See `Admin.models`."""
        return await self._run(models.read_models(self._operations))

    async def forget_model(self, model: str) -> None:
        """See `Admin.forget_model`."""
        await self._run(models.forget_model(self._operations, model))

    async def keep_response(self, job_id: str, response: StoredResponse, *, ttl_s: float) -> None:
        """See `Admin.keep_response`."""
        await self._run(responses.keep(self._operations, job_id, response, ttl_s))

    async def response(self, job_id: str) -> StoredResponse | None:
        """See `Admin.response`."""
        return await self._run(responses.read(self._operations, job_id))

    async def drop_response(self, job_id: str) -> bool:
        """See `Admin.drop_response`."""
        return await self._run(responses.drop(self._operations, job_id))

    async def doctor(self, *, machine: bool = True) -> list[Finding]:
        """See `Admin.doctor`."""
        findings = doctor.examine(self._url, self._operations.settings, machine=machine)
        return await asyncio.to_thread(list, findings)  # each look blocks
