"""Reads token logs from Redis page by page, so that even a long log doesn't block Redis."""

from collections.abc import Iterator
from typing import Any

from redis import Redis
from redis.exceptions import ResponseError

from ....schemas.keys import Tag
from ....schemas.redis.call import text
from ....schemas.redis.connection import broker_errors

PAGE_BYTES = 128 * 1024
"""Approximate size of a page; the first page shows how large entries are."""

FIRST_ENTRIES, MOST_ENTRIES = 16, 2048


def pages(redis: Redis, tag: Tag, job_id: str) -> Iterator[list[bytes]]:
    """Yield the events of a job's log in order; none if the log was damaged from outside.

    Raises:
        BrokerUnavailable: Redis can't be reached or refuses.
    """
    after, entries = "-", FIRST_ENTRIES
    while True:
        with broker_errors():
            try:
                found: Any = redis.xrange(tag.out(job_id), min=after, count=entries)
            except ResponseError as error:
                if "WRONGTYPE" in str(error):  # the key was replaced by one of another type
                    return
                raise
        events = [event for _, fields in found if (event := _event(fields)) is not None]
        yield events
        if len(found) < entries:
            return
        after = f"({text(found[-1][0])}"
        size = sum(map(len, events)) / len(found)
        entries = max(1, min(int(PAGE_BYTES / max(size, 1)), MOST_ENTRIES, entries * 8))


def _event(fields: dict[bytes | str, bytes | str]) -> bytes | None:
    value = fields.get(b"event", fields.get("event"))
    return value.encode() if isinstance(value, str) else value
