"""Jobs on behalf of a caller: what its key allows, and that nobody reaches another tenant's."""

from ...schemas.errors import JobNotFound, JobsRefused
from ...schemas.events import JobStatus
from ...schemas.job import Job
from ..async_client import AsyncJobHandle
from .auth import Access
from .errors import Refusal, not_found
from .state import Gateway


async def enqueue(gateway: Gateway, caller: Access, job: Job) -> AsyncJobHandle:
    """Enqueue the job in the caller's tenant.

    Raises:
        Refusal: its key doesn't allow the model, the class or the webhook's host.
        HeadraceError: see `Client.enqueue`.
    """
    caller.check_model(job.model)
    if job.job_class not in caller.classes:
        message = f"job_class: this API key may not use {job.job_class.value!r}."
        raise Refusal(403, message, code="class_not_allowed", param="job_class")
    if job.webhook is not None:
        caller.check_webhook(job.webhook.url)
    try:
        (handle,) = await gateway.client.enqueue_many([job.model_copy(update={"tenant": caller.tenant})])
    except JobsRefused as refused:
        raise refused.outcomes[0] from None  # type: ignore[misc]
    return handle


async def status_of(gateway: Gateway, caller: Access, job_id: str) -> JobStatus:
    """Where the caller's job is.

    Raises:
        Refusal: there is none of that id, or it is another tenant's: the answer is the same.
    """
    try:
        status = await gateway.client.job(job_id).status()
    except JobNotFound:
        status = None
    if status is None or status.tenant != caller.tenant:
        raise not_found("job", job_id)
    return status
