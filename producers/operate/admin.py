"""The operator's side of a client: `client.admin`."""

from typing import Protocol, TypeVar, Unpack

from ...schemas.tenants import TenantLimits, TenantPolicy
from ...schemas.webhooks.delivery import Delivery, DeliveryState, TenantSecret
from ..operations import Operations
from ..steps import Steps
from . import dead, deliveries, doctor, models, overview, secrets, tenants
from .dead import DeadLetter, DeadLetterDetails
from .findings import Finding
from .models import ModelInfo
from .overview import QueueInfo, WorkerInfo

T = TypeVar("T")


class Run(Protocol):
    """Performs an operation by blocking."""

    def __call__(self, steps: Steps[T], /) -> T: ...


class Admin:
    """What an operator sees and changes; `client.admin`. The `headrace` commands do all they do with it.

    Calls are as a client's own: thread-safe, and tried again while the connection to Redis is lost, which
    changes nothing a second time. All of them raise `BrokerUnavailable` where Redis can't be reached or
    refuses, and `BadSetting` for an empty name.
    """

    __slots__ = ("_operations", "_run", "_url")

    def __init__(self, operations: Operations, run: Run, url: str) -> None:
        self._operations, self._run, self._url = operations, run, url

    def dead_letters(self, model: str | None = None, *, limit: int | None = 100) -> list[DeadLetter]:
        """Jobs that ended because workers died over them, newest first.

        Args:
            model: only those of this one.
            limit: at most this many, the newest; None is all.
        """
        return self._run(dead.read_dead(self._operations, model, limit))

    def dead_letter(self, name: str) -> DeadLetterDetails:
        """One dead letter, by its own id or its job's, with what was kept of the job.

        Raises:
            JobNotFound: there is none.
        """
        return self._run(dead.show_dead(self._operations, name))

    def requeue_dead_letter(self, letter: DeadLetter | str, *, from_scratch: bool = False) -> str:
        """Queue the job of a dead letter again, as if no worker had died over it; gives the job's id.

        Args:
            letter: the letter, its id, or its job's.
            from_scratch: forget what was generated; else the job resumes behind it.

        Raises:
            JobNotFound: the letter or its job is gone, or it never had one (`letter.has_job`).
        """
        return self._run(dead.requeue_letter(self._operations, letter, from_scratch=from_scratch))

    def drop_dead_letter(self, letter: DeadLetter | str) -> str:
        """Delete a dead letter, with its job's record and output; gives the job's id, empty if it had none.

        Args:
            letter: the letter, its id, or its job's.

        Raises:
            JobNotFound: the letter is gone.
        """
        return self._run(dead.drop_letter(self._operations, letter))

    def tenants(self) -> dict[str, TenantPolicy]:
        """The policies by tenant; that of `*` holds for all who have none."""
        return self._run(tenants.list_policies(self._operations))

    def tenant(self, tenant: str) -> TenantPolicy:
        """What holds for a tenant: its own policy, that of `*`, or no limit at all.

        Raises:
            BadPolicy: no tenant can have this name.
        """
        return self._run(tenants.policy_of(self._operations, tenant))

    def set_tenant(self, tenant: str, **limits: Unpack[TenantLimits]) -> TenantPolicy:
        """Set a tenant's policy; it holds at once, for every model.

        Args:
            tenant: its name, or `*` for all who have no policy.
            limits: the fields of the `TenantPolicy`; what is None or not given is not limited.

        Raises:
            BadPolicy: a limit is wrong, or no tenant can have this name.
        """
        return self._run(tenants.set_policy(self._operations, tenant, limits))

    def drop_tenant(self, tenant: str) -> None:
        """Forget a tenant's policy: what holds for all others holds for it too.

        Raises:
            BadPolicy: no tenant can have this name.
        """
        self._run(tenants.drop_policy(self._operations, tenant))

    def secrets(self, tenant: str) -> list[TenantSecret]:
        """What signs a tenant's webhooks, the newest first.

        Raises:
            BadPolicy: no tenant can have this name.
        """
        return self._run(secrets.read_all(self._operations, tenant))

    def add_secret(self, tenant: str, secret: str | None = None) -> TenantSecret:
        """Add a secret; all of a tenant's sign until they are dropped, so that one can replace another.

        Args:
            tenant: whose webhooks it signs.
            secret: one of your own; a random one without it.

        Raises:
            BadPolicy: it can't sign, or the tenant has four already.
        """
        return self._run(secrets.add(self._operations, tenant, secret))

    def drop_secret(self, tenant: str, secret_id: str) -> int:
        """Drop one of a tenant's secrets, which signs no more after at most five seconds; how many are left.

        Raises:
            BadPolicy: the tenant has no secret of that id.
        """
        return self._run(secrets.drop(self._operations, tenant, secret_id))

    def deliveries(self, *, state: DeliveryState | str | None = None, limit: int = 100) -> list[Delivery]:
        """Webhook deliveries, newest first, with their attempts.

        Args:
            state: only those in this state: `pending`, `delivered`, `failed`, `refused` or `disabled`.
            limit: at most this many, the newest.

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
        """Send a delivery again, now, with the same id; its endpoint is taken for reachable.

        Raises:
            DeliveryNotFound: there is none, or its retention has ended.
        """
        self._run(deliveries.replay(self._operations, delivery_id))

    def workers(self) -> list[WorkerInfo]:
        """The engine processes that were heard of within the last minute."""
        return self._run(overview.read_workers(self._operations))

    def drain_worker(self, worker_id: str, *, finish_s: float = 0.0) -> WorkerInfo:
        """Have a worker hand its jobs over, with their tokens, and end within a second; gives what it was at.

        Args:
            worker_id: its id, or the unique beginning of it.
            finish_s: its jobs may continue for this long, to end by themselves.

        Raises:
            WorkerNotFound: no worker, or more than one, is named so.
        """
        return self._run(overview.drain_worker(self._operations, worker_id, finish_s))

    def queues(self) -> list[QueueInfo]:
        """The queues with waiting or running jobs."""
        return self._run(overview.read_queues(self._operations))

    def models(self) -> list[ModelInfo]:
        """The models that workers have served here, by name, with how many workers serve each now."""
        return self._run(models.read_models(self._operations))

    def forget_model(self, model: str) -> None:
        """Take a model that nobody serves any more off the list, so that jobs for it raise `UnknownModel`.

        Raises:
            UnknownModel: no worker has ever served it here.
            ModelInUse: workers serve it, or jobs of it wait, run or are still told of.
        """
        self._run(models.forget_model(self._operations, model))

    def doctor(self, *, machine: bool = True) -> list[Finding]:
        """Look at Redis and the queue, as `headrace doctor` does, over a connection of its own.

        A Redis that is away is a finding too, and no error.

        Args:
            machine: look at this machine as well: packages, GPU, compiler. That imports torch where it is
                installed.
        """
        return list(doctor.examine(self._url, self._operations.settings, machine=machine))
