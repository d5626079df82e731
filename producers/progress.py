"""How far a job has come, without the rest of its record, which holds its prompt and may be megabytes."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..schemas.errors import JobNotFound
from ..schemas.events import JobState
from ..schemas.record import intact
from .steps import Read, Steps

if TYPE_CHECKING:
    from .operations import Operations


@dataclass(frozen=True, slots=True)
class JobProgress:
    """How far a job has come.

    Attributes:
        tenant: whose job it is.
        ended: whether it will generate no more.
        offset: the tokens so far.
        restarts: how often it has been started over.
    """

    tenant: str
    ended: bool
    offset: int
    restarts: int


def read_progress(operations: "Operations", job_id: str) -> Steps[JobProgress]:
    """Read how far the job has come.

    Raises:
        JobNotFound: there is no such job.
        RecordDamaged: its record can't be read.
    """
    fields = ("state", "tenant", "offset", "restarts")
    (found,) = yield from operations.send(Read((("HMGET", operations.tag_of(job_id).job(job_id), *fields),)))
    state, tenant, offset, restarts = found
    if state is None:
        raise JobNotFound(job_id)
    with intact(job_id):
        ended = JobState(state.decode()).terminal
        return JobProgress(str(tenant, "utf-8"), ended, int(offset or 0), int(restarts or 0))
