"""headrace: durable LLM generation behind a queue.

    from headrace import Client

    client = Client("redis://localhost:6379/0")
    job = client.enqueue("Once upon a time", model="demo", max_tokens=64)
    for chunk in job.stream():
        print(chunk.text, end="", flush=True)
    result = job.result(timeout_s=30)

Public names are imported when they are first used: `import headrace` alone takes a few milliseconds.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .producers.async_client import AsyncClient, AsyncJobHandle
    from .producers.client import Client, JobHandle
    from .producers.operate.admin import Admin
    from .producers.operate.async_admin import AsyncAdmin
    from .producers.operate.dead import DeadLetter, DeadLetterDetails
    from .producers.operate.findings import Finding, Verdict
    from .producers.operate.jobs import JobPage
    from .producers.operate.models import ModelInfo
    from .producers.operate.overview import QueueInfo, WorkerInfo
    from .producers.operate.pauses import PausedQueue
    from .producers.operate.rates import RateLeft, RatesLeft
    from .producers.operate.responses import StoredResponse
    from .producers.rank import Ranked
    from .producers.score import Score
    from .schemas.access import ApiKey, NewApiKey
    from .schemas.adapters import ModelAdapter
    from .schemas.errors import (
        BadPolicy,
        BadSetting,
        BrokerUnavailable,
        DeliveryNotFound,
        HeadraceError,
        IdempotencyConflict,
        InvalidJob,
        JobCancelled,
        JobExpired,
        JobFailed,
        JobNotFound,
        JobsRefused,
        ModelInUse,
        QueueFull,
        RateLimited,
        RecordDamaged,
        ResultTimeout,
        StreamReset,
        Unauthorized,
        UnknownModel,
        WorkerNotFound,
    )
    from .schemas.events import Choice, Chunk, JobResult, JobState, JobStatus
    from .schemas.job import Job, JobClass, Webhook
    from .schemas.routes import ModelRoute
    from .schemas.scripts.cancel import CancelStatus
    from .schemas.settings.queue import Limits
    from .schemas.tenants import TenantPolicy
    from .schemas.webhooks.delivery import Delivery, DeliveryAttempt, DeliveryState, TenantSecret

__version__ = "0.1.0"

__all__ = [
    "Admin",
    "ApiKey",
    "AsyncAdmin",
    "AsyncClient",
    "AsyncJobHandle",
    "BadPolicy",
    "BadSetting",
    "BrokerUnavailable",
    "CancelStatus",
    "Choice",
    "Chunk",
    "Client",
    "DeadLetter",
    "DeadLetterDetails",
    "Delivery",
    "DeliveryAttempt",
    "DeliveryNotFound",
    "DeliveryState",
    "Finding",
    "HeadraceError",
    "IdempotencyConflict",
    "InvalidJob",
    "Job",
    "JobCancelled",
    "JobClass",
    "JobExpired",
    "JobFailed",
    "JobHandle",
    "JobNotFound",
    "JobPage",
    "JobResult",
    "JobState",
    "JobStatus",
    "JobsRefused",
    "Limits",
    "ModelAdapter",
    "ModelInUse",
    "ModelInfo",
    "ModelRoute",
    "NewApiKey",
    "PausedQueue",
    "QueueFull",
    "QueueInfo",
    "Ranked",
    "RateLeft",
    "RateLimited",
    "RatesLeft",
    "RecordDamaged",
    "ResultTimeout",
    "Score",
    "StoredResponse",
    "StreamReset",
    "TenantPolicy",
    "TenantSecret",
    "Unauthorized",
    "UnknownModel",
    "Verdict",
    "Webhook",
    "WorkerInfo",
    "WorkerNotFound",
    "__version__",
]

_HOMES = {
    "producers.async_client": ("AsyncClient", "AsyncJobHandle"),
    "producers.client": ("Client", "JobHandle"),
    "producers.operate.admin": ("Admin",),
    "producers.operate.async_admin": ("AsyncAdmin",),
    "producers.operate.dead": ("DeadLetter", "DeadLetterDetails"),
    "producers.operate.findings": ("Finding", "Verdict"),
    "producers.operate.jobs": ("JobPage",),
    "producers.operate.models": ("ModelInfo",),
    "producers.operate.overview": ("QueueInfo", "WorkerInfo"),
    "producers.operate.pauses": ("PausedQueue",),
    "producers.operate.responses": ("StoredResponse",),
    "producers.rank": ("Ranked",),
    "producers.score": ("Score",),
    "producers.operate.rates": ("RateLeft", "RatesLeft"),
    "schemas.access": ("ApiKey", "NewApiKey"),
    "schemas.adapters": ("ModelAdapter",),
    "schemas.events": ("Choice", "Chunk", "JobResult", "JobState", "JobStatus"),
    "schemas.job": ("Job", "JobClass", "Webhook"),
    "schemas.routes": ("ModelRoute",),
    "schemas.scripts.cancel": ("CancelStatus",),
    "schemas.settings.queue": ("Limits",),
    "schemas.tenants": ("TenantPolicy",),
    "schemas.webhooks.delivery": ("Delivery", "DeliveryAttempt", "DeliveryState", "TenantSecret"),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_HOME.get(name, 'schemas.errors')}", __name__), name)
    globals()[name] = value  # found directly from now on
    return value


def __dir__() -> list[str]:
    return __all__
