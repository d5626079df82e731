"""Enqueueing again what an ended job asked for."""

from ...schemas import ids
from ...schemas.errors import BadSetting, JobNotFound
from ...schemas.events import FailureCode, JobState
from ...schemas.wire import WireJob
from ..operations import Operations
from ..steps import Read, Steps, check_name

_RETRIED = frozenset({JobState.FAILED, JobState.CANCELLED, JobState.EXPIRED})


def retry_job(operations: Operations, job_id: str) -> Steps[str]:
    """Enqueue what an ended job asked for again, as a job of its own; return its id.

    The new job's idempotency key is made of the old one's id, so retrying twice gives one job.

    Raises:
        BadSetting: an empty name, or the job has not ended, has succeeded, or is a dead letter.
        JobNotFound: there is no such job.
        InvalidJob: what it asked for can't be read.
        HeadraceError: as `enqueue` raises it: the queue is full, say.
    """
    check_name("job_id", job_id)
    tag = operations.tag_of(job_id)
    ((state, error, spec),) = yield from operations.send(
        Read((("HMGET", tag.job(job_id), "state", "error", "spec"),))
    )
    if state is None:
        raise JobNotFound(job_id)
    if state.decode() not in _RETRIED:
        raise BadSetting(
            f"job_id = {job_id!r}: is {state.decode()}; "
            "only failed, cancelled and expired jobs can be retried"
        )
    if error is not None and f'"code":"{FailureCode.CRASHED}"'.encode() in error:
        raise BadSetting(f"job_id = {job_id!r}: is a dead letter; requeue it: headrace dead requeue {job_id}")
    # Without its task, which has ended and can't be completed twice, and without a delay that has passed.
    job = WireJob.from_wire(spec or b"").model_copy(
        update={"celery": None, "delay_s": 0.0, "idempotency_key": f"retry:{job_id}"}
    )
    new_id = ids.new_job_id(tag.model, tag.partition)
    return (yield from operations.enqueue(job.sent_to(tag.model), new_id, retry_of=job_id))
