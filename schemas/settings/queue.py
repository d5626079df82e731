"""How to reach Redis and how much a queue may hold; shared by producers and workers."""

from dataclasses import dataclass, field

from ..keys import NAMESPACE


@dataclass(frozen=True, slots=True)
class Limits:
    """What a producer may put into one lane, checked inside the enqueue script.

    Attributes:
        max_job_bytes: largest job as JSON.
        max_queued_jobs: most queued jobs in one lane (class and tenant), and most delayed jobs of a model.
        max_queued_bytes: most bytes of queued jobs in one lane.
    """

    max_job_bytes: int = 4 * 2**20
    max_queued_jobs: int = 1_000_000
    max_queued_bytes: int = 2**30


@dataclass(frozen=True, slots=True)
class QueueSettings:
    """How jobs are kept.

    Attributes:
        namespace: the first part of every key.
        partitions: how many queues (Redis Cluster slots) a model's jobs are spread over.
        retention_s: how long an ended job stays readable.
        dead_retention_s: how long a dead letter and its job stay.
        idempotency_s: how long an idempotency key is remembered.
        max_attempts: a job is dead-lettered after so many deaths of workers over it, whatever it asks for.
        limits: what a lane may hold.
    """

    namespace: str = NAMESPACE
    partitions: int = 1
    retention_s: float = 86_400.0
    dead_retention_s: float = 30 * 86_400.0
    idempotency_s: float = 86_400.0
    max_attempts: int = 10
    limits: Limits = field(default_factory=Limits)
