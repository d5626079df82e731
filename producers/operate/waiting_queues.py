"""Which queues of a model wait, since when and why: for the doctor, which isn't asked about a job.

It uses the words that a client waiting for one of these jobs sees (see `waiting`).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

from redis import Redis
from redis.exceptions import ResponseError

from ...schemas.job import JobClass
from ...schemas.keys import GROUP, Tag
from ...schemas.redis.call import text
from ...schemas.redis.connection import broker_errors, server_info
from ..steps import Read, Request, ServerInfo, drive
from ..waiting import Waiting, WaitReason, explain_at
from .findings import Finding, Verdict, judge

MOST_QUEUES = 64
"""Maximum number of queues of one partition that are looked at."""

LONG_S = 60.0
"""If jobs have waited for this long, there are too many of them for the workers."""

_NOT_WAITING = {WaitReason.RUNNING, WaitReason.ENDED}


_START_ONE = "headrace worker --model {model}"
_ABOUT = dict.fromkeys(WaitReason, (Verdict.WARN, "")) | {
    WaitReason.PAUSED: (
        Verdict.WARN,
        "headrace queues resume {model}; what is paused: headrace queues list --paused",
    ),
    WaitReason.NO_WORKER: (Verdict.FAIL, _START_ONE),
    WaitReason.DRAINING: (Verdict.FAIL, _START_ONE),
    WaitReason.CLASS_NOT_SERVED: (Verdict.FAIL, "start a worker whose --classes include this one"),
    WaitReason.TENANT_LIMIT: (
        Verdict.WARN,
        "raise it with headrace tenants set, if the workers have room",
    ),
    WaitReason.QUEUE: (
        Verdict.WARN,
        "jobs arrive faster than they are completed; add a worker: " + _START_ONE,
    ),
}


@dataclass(frozen=True, slots=True)
class WaitingQueue:
    """Waiting jobs of one tenant and class.

    Attributes:
        job_id: the last of them.
        why: what it waits for.
        oldest_s: how long the first of them has waited.
    """

    job_id: str
    why: Waiting
    oldest_s: float


def what_waits(redis: Redis, model: str, tags: Sequence[Tag], now_ms: int) -> Iterator[Finding]:
    """What the model's jobs wait for: each reason once, with the queue that has waited longest."""
    queues = list(waiting_queues(redis, tags, now_ms))
    for reason in WaitReason:
        of_reason = [queue for queue in queues if queue.why.reason is reason]
        if not of_reason:
            continue
        longest = max(of_reason, key=lambda queue: queue.oldest_s)
        found = f"job {longest.job_id} waits: {longest.why.text}; "
        found += f"the first in its queue has waited {longest.oldest_s:.0f} s"
        if more := len(of_reason) - 1:
            found += f" (and {more} more {'queue' if more == 1 else 'queues'})"
        verdict, advice = _ABOUT[reason]
        well = reason is WaitReason.QUEUE and longest.oldest_s < LONG_S
        yield judge(f"{model}: {reason.replace('_', ' ')}", found, well, verdict, advice.format(model=model))


def waiting_queues(redis: Redis, tags: Sequence[Tag], now_ms: int) -> Iterator[WaitingQueue]:
    """The queues of these tags that have waiting jobs, one partition after the other."""
    for tag in tags:
        for stream in islice(dict.fromkeys(_streams(redis, tag)), MOST_QUEUES):  # a lane may be parked, too
            # Entries after the last one handed out wait; those before it run.
            oldest: Any = redis.xrange(stream, f"({_last_taken(redis, stream)}", "+", count=1)
            newest: Any = redis.xrevrange(stream, count=1)
            if not oldest or not newest:
                continue
            job_id = text(newest[0][1].get(b"job", b""))
            why = drive(explain_at(tag, job_id), partial(_perform, redis))
            if why is not None and why.reason not in _NOT_WAITING:
                age_ms = now_ms - int(oldest[0][0].partition(b"-")[0])
                yield WaitingQueue(job_id, why, max(0, age_ms) / 1000)


def _streams(redis: Redis, tag: Tag) -> Iterator[str]:
    for job_class in JobClass:
        tenants: Any = redis.zrange(tag.backlog(job_class), 0, MOST_QUEUES - 1)
        yield from (tag.lane(job_class, text(tenant)) for tenant in tenants)
    for name in redis.smembers(tag.parked):
        parked_class, _, tenant = text(name).partition(":")
        yield tag.lane(parked_class, tenant)
    some_only: Any = redis.zrange(tag.readers, 0, -1)
    for readers in (*JobClass, *map(text, some_only)):
        yield tag.retry(readers)
        yield tag.suspects(readers)


def _last_taken(redis: Redis, stream: str) -> str:
    try:
        groups: Any = redis.xinfo_groups(stream)
    except ResponseError:  # the stream doesn't exist, or no longer does
        return "0-0"
    taken = [text(group["last-delivered-id"]) for group in groups if text(group["name"]) == GROUP]
    return taken[0] if taken else "0-0"


def _perform(redis: Redis, request: Request) -> Any:
    match request:
        case ServerInfo():
            return server_info(redis)
        case Read(commands):
            pipe = redis.pipeline(transaction=False)
            for command in commands:
                pipe.execute_command(*command)
            with broker_errors():
                return pipe.execute()
        case _:
            raise TypeError(f"an explanation asks for nothing like {request!r}")
