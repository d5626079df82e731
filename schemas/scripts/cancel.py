"""Cancel a job, or purge one that waits."""

from enum import StrEnum

from ..errors import JobNotFound
from ..events import JobError
from ..keys import Tag
from ..redis.call import Call, script, text


class CancelStatus(StrEnum):
    """The outcome of a cancellation."""

    CANCELLED = "cancelled"
    """It was waiting, and has ended."""
    CANCELLING = "cancelling"
    """It is running; its worker ends it at its next flush."""
    ALREADY = "already"
    """It had ended before."""


def cancel(tag: Tag, job_id: str) -> Call[CancelStatus]:
    """Cancel a waiting job at once, and a running one at its worker's next flush.

    Raises:
        JobNotFound: there is no such job.
    """

    def parse(reply: bytes | str) -> CancelStatus:
        status = text(reply).partition(" ")[0]
        if status == "missing":
            raise JobNotFound(job_id)
        return CancelStatus(status)

    return script("cancel").call(tag.base, parse, id=job_id, waiting_only=0, error="")


PURGED = JobError(code="purged", message="its queue was purged")


def purge(tag: Tag, job_id: str) -> Call[bool]:
    """Cancel a job unless it has started; return whether it was cancelled, now or before.

    Readers of its stream or result, its webhook and its Celery task are told that its queue was purged.
    """

    def parse(reply: bytes | str) -> bool:
        return text(reply) in {"cancelled", "already cancelled"}

    return script("cancel").call(tag.base, parse, id=job_id, waiting_only=1, error=PURGED.model_dump_json())
