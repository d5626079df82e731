"""Ask a worker to hand its jobs over and end."""

from ..keys import Tag
from ..redis.call import Call, script, text


def drain(tag: Tag, worker_id: str, finish_s: float) -> Call[bool]:
    """Make the worker end by its next heartbeat, or `finish_s` later if its jobs may finish first.

    The result says whether this queue has such a worker.
    """

    def parse(reply: bytes | str) -> bool:
        return text(reply) == "ok"

    return script("drain").call(tag.base, parse, worker=worker_id, finish_ms=round(finish_s * 1000))
