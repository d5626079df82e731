"""How jobs are kept and how many a queue may hold; shared by producers and workers."""

from dataclasses import dataclass, field

from ..errors import InvalidJob
from ..job import Job
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
        max_logprobs: the most that a job's `logprobs` and `prompt_logprobs` may ask for.
        max_prompt_logprobs: the most log-probabilities of one prompt, its tokens' and those beside them.
        max_choices: the most that a job's `n` may ask for.
    """

    max_job_bytes: int = 4 * 2**20
    max_queued_jobs: int = 1_000_000
    max_queued_bytes: int = 2**30
    max_logprobs: int = 20
    max_prompt_logprobs: int = 65_536
    max_choices: int = 8

    def check(self, job: Job, prompt_tokens: int) -> None:
        """Check what a job asks for, as far as the number of its prompt's tokens is known.

        Raises:
            InvalidJob: it asks for more choices or log-probabilities than are allowed.
        """
        if job.n > self.max_choices:
            raise InvalidJob("n", f"must be at most max_choices = {self.max_choices} (got {job.n})")
        self.check_logprobs(job, prompt_tokens)

    def check_logprobs(self, job: Job, prompt_tokens: int) -> None:
        """Check what a job asks for, as far as the number of its prompt's tokens is known.

        Raises:
            InvalidJob: it asks for more log-probabilities than are allowed.
        """
        for name in ("logprobs", "prompt_logprobs"):
            asked = getattr(job, name)
            if asked is not None and asked > self.max_logprobs:
                raise InvalidJob(name, f"must be at most max_logprobs = {self.max_logprobs} (got {asked})")
        if job.prompt_logprobs is None:
            return
        entries = prompt_tokens * (1 + job.prompt_logprobs)
        if entries > self.max_prompt_logprobs:
            raise InvalidJob(
                "prompt_logprobs",
                f"{job.prompt_logprobs} beside each of {prompt_tokens} tokens make {entries} "
                f"log-probabilities; at most max_prompt_logprobs = {self.max_prompt_logprobs} are allowed",
            )


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
