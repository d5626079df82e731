"""Ask a busy worker to try suspects."""

from collections.abc import Sequence
from typing import Any

from ..job import SCHEMA_VERSION, JobClass
from ..keys import Tag
from ..redis.call import Call, script


def trial(
    tag: Tag,
    worker_id: str,
    lease_ms: int,
    classes: Sequence[JobClass],
    fingerprint: str = "",
    tokens_per_byte: float = 0.5,
) -> Call[bool]:
    """Whether this worker, which holds jobs, should give them back and try suspects, one after the other.

    A worker that holds jobs calls it with every heartbeat. `classes` are those of which it can try jobs now;
    `fingerprint` and `tokens_per_byte` are as in its claims.
    """

    def parse(reply: Any) -> bool:
        return bool(int(reply))

    return script("trial").call(
        tag.base,
        parse,
        *(job_class.value for job_class in classes),
        worker=worker_id,
        lease_ms=lease_ms,
        max_v=SCHEMA_VERSION,
        fingerprint=fingerprint,
        tokens_per_byte=tokens_per_byte,
    )
