"""Reads from a job's record what a claim did not bring."""

from typing import Any

from redis import Redis
from redis.exceptions import ResponseError

from ....schemas.keys import Tag
from ....schemas.redis.connection import broker_errors


def spec_in(redis: Redis, tag: Tag, job_id: str) -> bytes:
    """The job as its producer wrote it; empty if the record is gone or was damaged from outside.

    Raises:
        BrokerUnavailable: Redis can't be reached or refuses.
    """
    found = _field(redis, tag, job_id, "spec")
    return found.encode() if isinstance(found, str) else found or b""


def offset_in(redis: Redis, tag: Tag, job_id: str) -> int | None:
    """The number of tokens that the record says the job has; None if it says none.

    Raises:
        BrokerUnavailable: Redis can't be reached or refuses.
    """
    found = _field(redis, tag, job_id, "offset")
    return int(found) if found is not None and found.isdigit() else None


def _field(redis: Redis, tag: Tag, job_id: str, name: str) -> Any:
    with broker_errors():
        try:
            return redis.hget(tag.job(job_id), name)
        except ResponseError as error:
            if "WRONGTYPE" in str(error):  # the key was replaced by one of another type
                return None
            raise
