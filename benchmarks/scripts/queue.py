"""The queue that scripts are measured in, and what calls on it have in common."""

import time
from collections.abc import Iterator
from typing import Any

from redis import Redis

from headrace.schemas.ids import new_job_id
from headrace.schemas.job import Job, JobClass
from headrace.schemas.keys import Tag
from headrace.schemas.scripts import Call, ClaimedJob, ClaimRequest, claim, enqueue, run
from headrace.schemas.settings.queue import QueueSettings

TAG, SETTINGS, LEASE_MS = Tag("bench"), QueueSettings(), 600_000

Named = Iterator[tuple[str, list[Call[Any]]]]
"""Names and calls to measure, which are made before the next are asked for; a name may come again."""


def empty(redis: Redis) -> None:
    """Delete everything, gigabytes perhaps, and wait until Redis has let go of it."""
    redis.flushall(asynchronous=True)
    while redis.info("memory")["lazyfree_pending_objects"]:
        time.sleep(0.1)


def added(job_id: str | None = None, **fields: object) -> Call[str]:
    """Enqueues a job of 16 prompt tokens and 16 output tokens, unless told otherwise."""
    if "messages" not in fields:
        fields = {"prompt_token_ids": [1] * 16, **fields}
    job = Job.make(**{"model": "bench", "max_tokens": 16, **fields})
    return enqueue(TAG, job_id or new_job_id("bench"), job, SETTINGS)


def claimed(slots: int = 1, **changes: object) -> Call[Any]:
    """Takes jobs of class standard with room for any."""
    given = {"worker": "w", "nonce": "n", "lease_ms": LEASE_MS, "budget_tokens": 10**9, "slots": slots}
    return claim(
        TAG, ClaimRequest(**{**given, "classes": (JobClass.STANDARD,), "suspect_slots": 0, **changes})
    )


def taken(redis: Redis, slots: int = 1, **changes: object) -> list[ClaimedJob]:
    """Jobs that a worker has claimed."""
    jobs: list[ClaimedJob] = run(redis, claimed(slots, **changes)).jobs
    assert len(jobs) == slots
    return jobs
