"""The operator's side of a client: `client.admin`."""

from collections.abc import Mapping, Sequence
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


class Run(Protocol):
    """Performs an operation by blocking."""

    def __call__(self, steps: Steps[T], /) -> T: ...


class Admin:
    """The operator's side of a `Client`, which the `headrace` commands are built on.

    It is as thread-safe as its client, and retries while the connection to Redis is lost; a retried call
    takes effect once. Every call raises `BrokerUnavailable` if Redis can't be reached or refuses, and
    `BadSetting` for an empty name.
    """

    __slots__ = ("_operations", "_run", "_url")

    def __init__(self, operations: Operations, run: Run, url: str) -> None:
        self._operations, self._run, self._url = operations, run, url

    def dead_letters(self, model: str | None = None, *, limit: int | None = 100) -> list[DeadLetter]:
        """The dead letters, newest first: jobs that ended because workers died over them.

        Args:
            model: only the dead letters of this model.
            limit: return at most this many, the newest; None returns all.
        """
        return self._run(dead.read_dead(self._operations, model, limit))

    def dead_letter(self, name: str) -> DeadLetterDetails:
        """One dead letter, by its own id or its job's, with what was kept of the job.

        Raises:
            JobNotFound: there is none.
        """
        return self._run(dead.show_dead(self._operations, name))

    def requeue_dead_letter(self, letter: DeadLetter | str, *, from_scratch: bool = False) -> str:
        """Queue a dead letter's job again with its attempts reset; returns the job's id.

        Args:
            letter: the letter, its id, or its job's.
            from_scratch: discard what was generated instead of continuing after it.

        Raises:
            JobNotFound: the letter or its job is gone, or it never had one (`letter.has_job`).
        """
        return self._run(dead.requeue_letter(self._operations, letter, from_scratch=from_scratch))

    def drop_dead_letter(self, letter: DeadLetter | str) -> str:
        """Delete a dead letter with its job's record and output; returns the job's id, empty if it had none.

        Args:
            letter: the letter, its id, or its job's.

        Raises:
            JobNotFound: the letter is gone.
        """
        return self._run(dead.drop_letter(self._operations, letter))

    def tenants(self) -> dict[str, TenantPolicy]:
        """The policies by tenant; `*` is the default, for tenants without a policy."""
        return self._run(tenants.list_policies(self._operations))

    def tenant(self, tenant: str) -> TenantPolicy:
        """The policy that applies to a tenant: its own, the default, or one without limits.

        Raises:
            BadPolicy: no tenant can have this name.
        """
        return self._run(tenants.policy_of(self._operations, tenant))

    def set_tenant(self, tenant: str, **limits: Unpack[TenantLimits]) -> TenantPolicy:
        """Set a tenant's policy, at once and for every model.

        Args:
            tenant: its name, or `*` for the default.
            limits: the fields of `TenantPolicy`; what is None or not given is not limited.

        Raises:
            BadPolicy: a limit is wrong, or no tenant can have this name.
        """
        return self._run(tenants.set_policy(self._operations, tenant, limits))

    def rates(self, tenant: str, model: str) -> RatesLeft:
        """What is left of a tenant's rates for a model, as an estimate.

        Args:
            tenant: the tenant.
            model: the model; rates apply to each separately.
        """
        return self._run(rates.read_rates(self._operations, tenant, model))

    def drop_tenant(self, tenant: str) -> None:
        """Delete a tenant's policy; the default applies to it from then on.

        Raises:
            BadPolicy: no tenant can have this name.
        """
        self._run(tenants.drop_policy(self._operations, tenant))

    def secrets(self, tenant: str) -> list[TenantSecret]:
        """The secrets that sign a tenant's webhooks, newest first.

        Raises:
            BadPolicy: no tenant can have this name.
        """
        return self._run(secrets.read_all(self._operations, tenant))

    def add_secret(self, tenant: str, secret: str | None = None) -> TenantSecret:
        """Add a secret. All of a tenant's secrets sign until they are dropped, so one can replace another.

        Args:
            tenant: whose webhooks it signs.
            secret: the secret; a random one by default.

        Raises:
            BadPolicy: it can't sign, or the tenant has four already.
        """
        return self._run(secrets.add(self._operations, tenant, secret))

    def drop_secret(self, tenant: str, secret_id: str) -> int:
        """Drop a secret, which stops signing within five seconds; returns how many the tenant has left.

        Raises:
            BadPolicy: the tenant has no secret of that id.
        """
        return self._run(secrets.drop(self._operations, tenant, secret_id))

    def api_keys(self) -> list[ApiKey]:
        """The gateway's API keys, newest first, without their secrets."""
        return self._run(access.list_api_keys(self._operations))

    def create_api_key(
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
        """Make an API key. Its text is in what this returns and can't be read again.

        Args:
            tenant: whose jobs, responses, files and batches it reaches.
            name: what it is for.
            models: the models that it may use; None is all.
            classes: the job classes that it may use; None is all.
            webhook_hosts: the hosts that its webhooks may go to; None is all.
            expires_s: seconds until it ends; None is never.
            operator: whether it also opens the console.

        Raises:
            BadPolicy: a field is wrong.
        """
        fields: dict[str, object] = {name: value for name, value in locals().items() if name != "self"}
        return self._run(access.create_api_key(self._operations, fields))

    def revoke_api_key(self, key_id: str) -> ApiKey:
        """Revoke an API key, for every gateway at once; returns what it was.

        Raises:
            BadPolicy: there is no key of that id.
        """
        return self._run(access.revoke_api_key(self._operations, key_id))

    def check_api_key(self, key: str) -> ApiKey:
        """Find out what an API key may do, as a gateway does for each request; its use is recorded.

        Raises:
            Unauthorized: it is wrong, expired or revoked.
        """
        return self._run(access.check_api_key(self._operations, key))

    def adapters(self) -> dict[str, ModelAdapter]:
        """The LoRA adapters that requests can ask for, by name."""
        return self._run(adapters.list_adapters(self._operations))

    def load_adapter(
        self, name: str, source: str, *, model: str | None = None, fingerprint: str | None = None
    ) -> ModelAdapter:
        """Let requests ask for an adapter, from now on and everywhere; it may replace one of its name.

        Workers read it when the first job asks for it. Jobs that were enqueued before go on with the content
        that they were enqueued for, where it still can be read.

        Args:
            name: what requests ask for, instead of a model.
            source: the absolute path of a folder in PEFT's format, or its Hub name, as workers can read it.
            model: the model that it changes; None if only one is served.
            fingerprint: of its content (`folder_fingerprint`), if the folder can't be read here.

        Raises:
            BadPolicy: an argument is wrong, or the name is a model's or an alias's.
            UnknownModel: no worker has ever served the model.
        """
        return self._run(adapters.load_adapter(self._operations, name, source, model, fingerprint))

    def drop_adapter(self, name: str) -> None:
        """Refuse requests for an adapter from now on; jobs that were enqueued before go on.

        Raises:
            BadPolicy: there is no such adapter.
        """
        self._run(adapters.drop_adapter(self._operations, name))

    def routes(self) -> dict[str, ModelRoute]:
        """The gateway's model aliases, by name."""
        return self._run(routes.list_routes(self._operations))

    def set_route(self, alias: str, targets: Mapping[str, int]) -> ModelRoute:
        """Share the requests for an alias out among models, from now on and at every gateway.

        Args:
            alias: the name that requests ask for; it hides a model of the same name.
            targets: the models with their weights. No worker need serve them yet.

        Raises:
            BadPolicy: a name or a weight is wrong, or a target is an alias itself.
        """
        return self._run(routes.set_route(self._operations, alias, targets))

    def drop_route(self, alias: str) -> None:
        """Delete an alias; requests for it are then refused, and the jobs that it led to go on.

        Raises:
            BadPolicy: there is no such alias.
        """
        self._run(routes.drop_route(self._operations, alias))

    def routed_model(
        self,
        model: str,
        *,
        who: str | None = None,
        tenant: str = "default",
        idempotency_key: str | None = None,
    ) -> Routed:
        """The model that answers a request, as a gateway asks for each: `model` itself if it is no alias.

        Args:
            model: what the request asks for.
            who: whom it is for; the same gets the same model while the weights stay. None: by chance.
            tenant: whose request it is.
            idempotency_key: that of a request that may be sent again. It gets the model that has its job, if
                there is one; otherwise the choice is kept for a minute.
        """
        asked = ModelRequest(model, who, tenant, idempotency_key)
        (routed,) = self._run(routed_models(self._operations, [asked]))
        return routed

    def keep_routed(self, routed: Routed) -> None:
        """Keep the choice, if any, as long as an idempotency key: its job has been accepted, or was found."""
        self._run(keep_routed(self._operations, [routed]))

    def deliveries(self, *, state: DeliveryState | str | None = None, limit: int = 100) -> list[Delivery]:
        """Webhook deliveries, newest first, with their attempts.

        Args:
            state: only those in this state: `pending`, `delivered`, `failed`, `refused` or `disabled`.
            limit: return at most this many, the newest.

        Raises:
            BadSetting: there is no such state.
        """
        return self._run(deliveries.list_deliveries(self._operations, state=state, limit=limit))

    def delivery(self, delivery_id: str) -> Delivery:
        """One delivery by its `webhook-id`, with when it is tried next.

        Raises:
            DeliveryNotFound: there is none, or its retention has ended.
        """
        return self._run(deliveries.find_delivery(self._operations, delivery_id))

    def replay_delivery(self, delivery_id: str) -> None:
        """Send a delivery again now, with the same id, and treat its endpoint as reachable.

        Raises:
            DeliveryNotFound: there is none, or its retention has ended.
        """
        self._run(deliveries.replay(self._operations, delivery_id))

    def workers(self) -> list[WorkerInfo]:
        """The engine processes that were heard from in the last minute."""
        return self._run(overview.read_workers(self._operations))

    def drain_worker(self, worker_id: str, *, finish_s: float = 0.0) -> WorkerInfo:
        """Have a worker hand over its jobs with their tokens and exit, within a second.

        Args:
            worker_id: its id, or a beginning that no other worker's id has.
            finish_s: let its jobs finish for up to this many seconds first.

        Returns:
            The worker as it was when it was asked.

        Raises:
            WorkerNotFound: no worker, or more than one, has that name.
        """
        return self._run(overview.drain_worker(self._operations, worker_id, finish_s))

    def jobs(
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
        """Some jobs of a model, or of all models: the newest first, as many as match the filters.

        A call looks at no more than 10,000 jobs, so a page may be short or even empty without being the last:
        continue until its `cursor` is None.

        Args:
            model: only jobs of this model.
            state: only jobs in this state: `delayed`, `queued`, `running`, `succeeded`, `failed`,
                `cancelled` or `expired`.
            job_class: only jobs of this class.
            tenant: only jobs of this tenant.
            metadata: only jobs whose metadata have these values under these keys.
            min_age_s: only jobs enqueued at least this many seconds ago.
            max_age_s: only jobs enqueued at most this many seconds ago.
            limit: return at most this many.
            cursor: the last page's, to read on.

        Raises:
            UnknownModel: no worker has ever served that model here.
        """
        wanted = Wanted.of(Chosen.of(job_class, tenant), state, metadata, min_age_s, max_age_s)
        return self._run(jobs.list_jobs(self._operations, model, wanted, limit, cursor))

    def retry(self, job_id: str) -> str:
        """Enqueue again what a failed, cancelled or expired job asked for; returns the new job's id.

        The new job starts from scratch, without delay, and its status names the old one as `retry_of`.
        Retrying the same job again within a day returns the same new one. A Celery task that the old job
        completed doesn't change. A dead letter is requeued instead, which continues it.

        Raises:
            JobNotFound: there is no such job, or its retention has ended.
            BadSetting: it hasn't ended, has succeeded, or is a dead letter.
            QueueFull, RateLimited: as `Client.enqueue`.
        """
        return self._run(retry.retry_job(self._operations, job_id))

    def queues(self) -> list[QueueInfo]:
        """The queues with waiting or running jobs."""
        return self._run(overview.read_queues(self._operations))

    def pause(
        self, model: str, *, job_class: JobClass | str | None = None, tenant: str | None = None
    ) -> None:
        """Start no more jobs of a model, or of one class or tenant of it, until `resume`.

        Jobs can still be enqueued, jobs that have started continue, even on another worker, and delays and
        deadlines keep running.

        Args:
            model: the model's name.
            job_class: only jobs of this class.
            tenant: only jobs of this tenant.

        Raises:
            UnknownModel: no worker has ever served it here.
        """
        self._run(pauses.pause_queue(self._operations, model, Chosen.of(job_class, tenant)))

    def resume(
        self, model: str, *, job_class: JobClass | str | None = None, tenant: str | None = None
    ) -> bool:
        """End the pause that was made with the same arguments; returns whether there was one.

        Raises:
            UnknownModel: no worker has ever served the model here.
        """
        return self._run(pauses.resume_queue(self._operations, model, Chosen.of(job_class, tenant)))

    def pauses(self) -> list[PausedQueue]:
        """What is paused: the model, class and tenant of each pause, and since when."""
        return self._run(pauses.read_pauses(self._operations))

    def purge(
        self,
        model: str,
        *,
        job_class: JobClass | str | None = None,
        tenant: str | None = None,
        delayed: bool = False,
    ) -> int:
        """Cancel all jobs of a model that wait now, or those of one class or tenant; returns how many.

        Clients that wait for one of them, its webhook and its Celery task are told that its queue was purged.
        Running jobs, and jobs enqueued meanwhile, are not affected.

        Args:
            model: the model's name.
            job_class: only jobs of this class.
            tenant: only jobs of this tenant.
            delayed: also cancel jobs that were asked to wait (`delay_s`).

        Raises:
            UnknownModel: no worker has ever served it here.
        """
        chosen = Chosen.of(job_class, tenant)
        return self._run(purge.purge_queue(self._operations, model, chosen, delayed=delayed))

    def models(self) -> list[ModelInfo]:
        """The models that workers have served here, by name, with how many workers serve each now."""
        return self._run(models.read_models(self._operations))

    def forget_model(self, model: str) -> None:
        """Remove a model that nobody serves any more from the list; jobs for it raise `UnknownModel` then.

        Raises:
            UnknownModel: no worker has ever served it here.
            ModelInUse: workers serve it, or its jobs or their callbacks are unfinished.
        """
        self._run(models.forget_model(self._operations, model))

    def keep_response(self, job_id: str, response: StoredResponse, *, ttl_s: float) -> None:
        """Store what a gateway keeps of a response, for this many seconds.

        With an `answer` it only replaces one that is still stored, so one that was deleted meanwhile stays
        deleted.
        """
        self._run(responses.keep(self._operations, job_id, response, ttl_s))

    def response(self, job_id: str) -> StoredResponse | None:
        """A stored response, by its job; None if there is none, or it no longer exists.

        Raises:
            JobNotFound: no job can have this id.
        """
        return self._run(responses.read(self._operations, job_id))

    def drop_response(self, job_id: str) -> bool:
        """Delete a stored response, but not its job; return whether there was one."""
        return self._run(responses.drop(self._operations, job_id))

    def doctor(self, *, machine: bool = True) -> list[Finding]:
        """Check Redis and the queues as `headrace doctor` does, over a connection of its own.

        A Redis that can't be reached is a finding, not an error.

        Args:
            machine: check this machine as well: packages, GPU, compiler. Imports torch if it is installed.
        """
        return list(doctor.examine(self._url, self._operations.settings, machine=machine))
