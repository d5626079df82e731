"""How jobs are kept and how many a queue may hold; shared by producers and workers."""

from dataclasses import dataclass, field

from ..keys import NAMESPACE

MOST_PARTITIONS = 1024
MOST_REPLICAS = 16

LONGEST_KEPT_S = 100 * 365 * 86_400
"""A hundred years; Redis takes no TTL that overflows its clock."""

LONGEST_WAIT_S = 10.0
"""For replicas. WAIT blocks its connection, on which a reply that takes 15 seconds counts as lost."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of one lane, checked by the enqueue script.

    Attributes:
        max_job_bytes: maximum size of a job as JSON.
        max_queued_jobs: maximum number of queued jobs per lane (class and tenant), and of delayed jobs per
        model.
        max_queued_bytes: maximum size of the queued jobs per lane.
    """

    max_job_bytes: int = 4 * 2**20
    max_queued_jobs: int = 1_000_000
    max_queued_bytes: int = 2**30


@dataclass(frozen=True, slots=True)
class QueueSettings:
    """How jobs are kept in Redis.

    Attributes:
        namespace: the first part of every key.
        partitions: how many queues (Redis Cluster slots) a model's jobs are spread over.
        retention_s: how long an ended job stays readable.
        dead_retention_s: how long a dead letter and its job are kept.
        idempotency_s: how long an idempotency key is remembered.
        max_attempts: upper bound of every job's own `max_attempts`.
        limits: limits of a lane.
    """

    namespace: str = NAMESPACE
    partitions: int = 1
    retention_s: float = 86_400.0
    dead_retention_s: float = 30 * 86_400.0
    idempotency_s: float = 86_400.0
    max_attempts: int = 10
    limits: Limits = field(default_factory=Limits)
