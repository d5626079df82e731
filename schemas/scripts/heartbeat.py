"""Workers saying that they live."""

from collections.abc import Mapping
from typing import Any

from redis import Redis

from ..connection import broker_errors
from ..job import JobClass
from ..keys import Tag
from .call import Arg, Call, script, text
from .upkeep import WORKER_SILENCE_S


def heartbeat(tag: Tag, worker_id: str, facts: Mapping[str, str | int]) -> Call[float | None]:
    """Register the worker, or renew it, with what it says of itself.

    The result is None, or for how many seconds it may go on with its jobs before it hands them over and ends.
    """
    args: list[Arg] = [worker_id, round(WORKER_SILENCE_S * 1000)]
    for name, value in facts.items():
        args += (name, value)
    return Call(script("heartbeat"), tag.base, args, _parse)


def _parse(reply: Any) -> float | None:
    answer = text(reply)
    return int(answer) / 1000 if answer else None


def forget_worker(redis: Redis, tag: Tag, worker_id: str) -> None:
    """Take a worker that shuts down off the list."""
    with broker_errors():
        pipe = redis.pipeline(transaction=False)
        pipe.zrem(tag.workers, worker_id)
        for job_class in JobClass:
            pipe.zrem(tag.capacity(job_class), worker_id)
        pipe.delete(tag.worker(worker_id))
        pipe.execute()
