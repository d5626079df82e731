"""Workers' heartbeats."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from redis import Redis

from ..job import JobClass
from ..keys import Tag
from ..redis.call import Call, script, text
from ..redis.connection import broker_errors
from .upkeep import WORKER_SILENCE_S


class HeartbeatReply(NamedTuple):
    """What the queue tells a worker.

    Attributes:
        drain_s: how long it may continue its jobs before it hands them over and stops; None if it need not
        stop.
        others: fingerprints of other models served under the same name within the last seconds.
    """

    drain_s: float | None
    others: tuple[str, ...]


def heartbeat(tag: Tag, worker_id: str, facts: Mapping[str, str | int]) -> Call[HeartbeatReply]:
    """Register the worker, or renew its registration, with the facts that it reports.

    Of these, `fingerprint`, `classes` (joined by commas) and `max_v` say which jobs with tokens it can take.
    """
    return script("heartbeat").call(
        tag.base,
        _parse,
        *(part for fact in facts.items() for part in fact),
        worker=worker_id,
        silence_ms=round(WORKER_SILENCE_S * 1000),
    )


def _parse(reply: list[Any]) -> HeartbeatReply:
    drain_ms, *others = map(text, reply)
    return HeartbeatReply(int(drain_ms) / 1000 if drain_ms else None, tuple(others))


def forget_worker(redis: Redis, tag: Tag, worker_id: str) -> None:
    """Remove a worker that is shutting down from the list."""
    with broker_errors():
        # No script, as nothing depends on all of it: what a kill leaves is forgotten after its silence.
        pipe = redis.pipeline(transaction=False)
        pipe.zrem(tag.workers, worker_id)
        for job_class in JobClass:
            pipe.zrem(tag.capacity(job_class), worker_id)
        pipe.delete(tag.worker(worker_id))
        pipe.execute()
