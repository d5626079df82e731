"""What waits in the queues, for metrics. Callbacks export it because workers may be scaled to zero.

Looking takes three round trips for all queues together, and counts at most a fixed number of tenants per
class.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from redis import Redis
from redis.exceptions import ResponseError

from ...schemas.job import JobClass
from ...schemas.keys import GROUP, Tag
from ...schemas.redis.connection import broker_errors

MOST_TENANTS = 100
"""Maximum number of tenants counted per class."""


@dataclass(slots=True)
class Backlog:
    """What waits of one model.

    Attributes:
        jobs, oldest_s: waiting jobs by class, and how long the oldest of them has waited.
        delayed: jobs that are not due yet.
        outbox, outbox_s: entries waiting to be handled, and the age of the oldest.
        dead: dead letters.
    """

    jobs: Counter[JobClass] = field(default_factory=Counter)
    oldest_s: dict[JobClass, float] = field(default_factory=lambda: dict.fromkeys(JobClass, 0.0))
    delayed: int = 0
    outbox: int = 0
    outbox_s: float = 0.0
    dead: int = 0


def look(redis: Redis, tags: Sequence[Tag]) -> dict[str, Backlog]:
    """What waits in these queues, by model.

    Raises:
        BrokerUnavailable: Redis can't be reached or refuses.
    """
    found: dict[str, Backlog] = {tag.model: Backlog() for tag in tags}
    with broker_errors():
        (seconds, micros), *replies = _ask(redis, [("TIME",), *_of_queues(tags)])
        now_ms = int(seconds) * 1000 + int(micros) // 1000
        streams: list[tuple[str, JobClass, str]] = []
        for tag, at in zip(tags, range(0, len(replies), _ASKED), strict=True):
            delayed, outbox, oldest, dead, *backlogs = replies[at : at + _ASKED]
            backlog = found[tag.model]
            backlog.delayed += delayed
            backlog.outbox += outbox
            backlog.dead += dead
            backlog.outbox_s = max([backlog.outbox_s, *(_age_s(now_ms, entry) for entry, _ in oldest)])
            for job_class, tenants in zip(JobClass, backlogs, strict=True):
                of_class = [tag.retry(job_class), tag.suspects(job_class)]
                of_class += [tag.lane(job_class, tenant.decode()) for tenant in tenants]
                streams += [(tag.model, job_class, stream) for stream in of_class]
        _count(redis, streams, found, now_ms)
    return found


_ASKED = 4 + len(JobClass)


def _of_queues(tags: Sequence[Tag]) -> list[tuple[str | int, ...]]:
    asked: list[tuple[str | int, ...]] = []
    for tag in tags:
        asked += [("ZCARD", tag.delayed), ("XLEN", tag.outbox)]
        asked += [("XRANGE", tag.outbox, "-", "+", "COUNT", 1), ("XLEN", tag.dead)]
        asked += [("ZRANGE", tag.backlog(each), 0, MOST_TENANTS - 1) for each in JobClass]
    return asked


def _count(
    redis: Redis, streams: Sequence[tuple[str, JobClass, str]], found: dict[str, Backlog], now_ms: int
) -> None:
    """Add what waits in these streams, and since when: the entries after the last one handed out."""
    lengths = _ask(redis, [("XLEN", stream) for *_, stream in streams])
    filled = [place for place, length in zip(streams, lengths, strict=True) if length]
    counted = dict(zip((stream for *_, stream in streams), lengths, strict=True))
    groups = _ask(redis, [("XINFO", "GROUPS", stream) for *_, stream in filled])
    heads: list[tuple[str | int, ...]] = []
    for (model, job_class, stream), of_stream in zip(filled, groups, strict=True):
        pending, last = _group(of_stream)
        found[model].jobs[job_class] += max(0, counted[stream] - pending)
        heads.append(("XRANGE", stream, f"({last}", "+", "COUNT", 1))
    for (model, job_class, _), head in zip(filled, _ask(redis, heads), strict=True):
        ages = [_age_s(now_ms, entry) for entry, _ in head]
        oldest = found[model].oldest_s
        oldest[job_class] = max([oldest[job_class], *ages])


def _group(groups: Any) -> tuple[int, str]:
    """How many of a stream's entries are running, and the last one handed out."""
    for group in groups:
        facts = group if isinstance(group, dict) else dict(zip(group[::2], group[1::2], strict=True))
        if facts[b"name"] == GROUP.encode():
            return int(facts[b"pending"]), facts[b"last-delivered-id"].decode()
    return 0, "0-0"


def _ask(redis: Redis, commands: Sequence[tuple[str | int, ...]]) -> list[Any]:
    """The replies, in order; empty for a stream that has disappeared meanwhile."""
    pipe = redis.pipeline(transaction=False)
    for command in commands:
        pipe.execute_command(*command)
    replies = pipe.execute(raise_on_error=False)
    for number, reply in enumerate(replies):
        if isinstance(reply, ResponseError) and "no such key" in str(reply):
            replies[number] = []
        elif isinstance(reply, Exception):
            raise reply
    return list(replies)


def _age_s(now_ms: int, entry_id: bytes) -> float:
    return max(0.0, (now_ms - int(entry_id.partition(b"-")[0])) / 1000)
