"""Jobs that a script has ended because no worker had them."""

from collections.abc import Sequence
from typing import Any, NamedTuple


class Ended(NamedTuple):
    """A job that ended in the queue, or with its worker, so that no worker reports it.

    Attributes:
        state: cancelled, expired or failed.
        code: why it failed.
        tenant, job_class: as its record says.
        attempts: how often a worker died over it while running nothing else.
        output_tokens: tokens in its log.
        age_s: time since it was enqueued, by Redis's clock.
        worker: the last one that had it.
    """

    job_id: str
    state: str
    code: str
    tenant: str
    job_class: str
    attempts: int
    output_tokens: int
    age_s: float
    worker: str


def read_ended(reply: Sequence[Sequence[Any]]) -> list[Ended]:
    """Read them from a script's reply; records that were damaged from outside do no harm."""
    return [_ended(item) for item in reply]


def _ended(item: Sequence[Any]) -> Ended:
    job_id, state, code, tenant, job_class, attempts, output_tokens, age_ms, worker = item
    return Ended(
        job_id=readable(job_id),
        state=readable(state),
        code=readable(code),
        tenant=readable(tenant),
        job_class=readable(job_class),
        attempts=int(attempts),
        output_tokens=int(output_tokens),
        age_s=int(age_ms) / 1000,
        worker=readable(worker),
    )


def readable(value: bytes | str) -> str:
    """A text from a record, which may have been damaged."""
    return value.decode(errors="replace") if isinstance(value, bytes) else value
