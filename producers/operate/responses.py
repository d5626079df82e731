"""Responses that were stored for later reading, and so that the conversation can continue.

One is kept beside its job, which has the tokens. Its answer is added once a client has read all of it, so
that it can outlive the job's own retention.
"""

from typing import Any

from pydantic import BaseModel, ConfigDict

from ...schemas.keys import tag_of
from ...schemas.record import intact
from ..operations import Operations
from ..steps import Read, Steps, Write


class StoredResponse(BaseModel):
    """What is kept of a response.

    Attributes:
        tenant: the tenant that owns it.
        echo: what its object repeats of its request.
        items: the conversation up to its answer, as messages with `role` and `content`.
        answer: its object, once it has ended and has been read.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    tenant: str
    echo: dict[str, Any]
    items: list[dict[str, str]]
    answer: dict[str, Any] | None = None


def keep(operations: Operations, job_id: str, response: StoredResponse, ttl_s: float) -> Steps[None]:
    """Store a response for this many seconds, or the answer to one that is still stored."""
    key = tag_of(job_id, operations.settings.namespace).response(job_id)
    known = () if response.answer is None else ("XX",)  # it may have been deleted meanwhile
    command = ("SET", key, response.model_dump_json(), "PX", max(1, round(1000 * ttl_s)), *known)
    yield from operations.send(Write((command,)))


def read(operations: Operations, job_id: str) -> Steps[StoredResponse | None]:
    """A stored response; None if it was never stored, was deleted, or has expired.

    Raises:
        RecordDamaged: it can't be read.
        JobNotFound: no job can have this id.
    """
    key = tag_of(job_id, operations.settings.namespace).response(job_id)
    (text,) = yield from operations.send(Read((("GET", key),)))
    if text is None:
        return None
    with intact(job_id):
        return StoredResponse.model_validate_json(text)


def drop(operations: Operations, job_id: str) -> Steps[bool]:
    """Delete a stored response; return whether there was one."""
    key = tag_of(job_id, operations.settings.namespace).response(job_id)
    (dropped,) = yield from operations.send(Write((("DEL", key),)))
    return bool(dropped)
