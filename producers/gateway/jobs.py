"""Jobs on behalf of a caller: it can do what its key allows, and never reaches another tenant's jobs."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from ...schemas.errors import InvalidJob, JobNotFound
from ...schemas.events import JobStatus
from ...schemas.job import Job, JobClass
from ...schemas.wire import WireJob
from ..async_client import AsyncJobHandle, enqueue_named, progress
from ..progress import JobProgress
from .auth import Access
from .errors import Refusal, not_found
from .state import Gateway

T = TypeVar("T", JobStatus, JobProgress)


def usual_class(gateway: Gateway, caller: Access) -> JobClass:
    """The class of jobs whose request names none."""
    usual = gateway.settings.gateway_job_class
    return usual if usual in caller.classes else caller.classes[0]


def job_of(
    gateway: Gateway, caller: Access, fields: Mapping[str, Any], max_tokens: int | None = None
) -> WireJob:
    """The job in the caller's tenant that has these fields, and the usual values of others.

    Args:
        gateway: knows the usual class.
        caller: whose job it becomes.
        fields: what the caller asked for.
        max_tokens: the usual value; None for that of every job.

    Raises:
        InvalidJob: a field is wrong.
    """
    if "tenant" in fields:
        raise InvalidJob("tenant", "the API key names it; leave it out")
    usual: dict[str, Any] = {"job_class": usual_class(gateway, caller)}
    if max_tokens is not None:
        usual["max_tokens"] = max_tokens
    job = Job.make(**usual | dict(fields) | {"tenant": caller.tenant})
    return WireJob.of(job, filled_in=usual.keys() - fields.keys())


async def enqueue_all(
    gateway: Gateway, caller: Access, jobs: Sequence[Job], model: str | None = None
) -> list[AsyncJobHandle]:
    """Enqueue jobs in the caller's tenant, all or none; for `model`, if it was chosen for them.

    Raises:
        Refusal: its key doesn't allow the class or the webhook's host.
        HeadraceError: see `Client.enqueue`.
        AliasFound: no model was chosen, and they ask for an alias.
    """
    for job in jobs:
        _check(caller, job)
    mine = [WireJob.of(job) for job in jobs]
    outcomes = await enqueue_named(
        gateway.client, mine if model is None else [job.sent_to(model) for job in mine]
    )
    accepted = [outcome for outcome in outcomes if isinstance(outcome, AsyncJobHandle)]
    if len(accepted) < len(outcomes):
        # A client that is told of a refusal knows of no job.
        for handle in accepted:
            await handle.cancel()
        raise next(outcome for outcome in outcomes if isinstance(outcome, Exception))
    return accepted


def _check(caller: Access, job: Job) -> None:
    if job.job_class not in caller.classes:
        message = f"job_class: this API key may not use {job.job_class.value!r}."
        raise Refusal(403, message, code="class_not_allowed", param="job_class")
    if job.webhook is not None:
        caller.check_webhook(job.webhook.url)


async def status_of(gateway: Gateway, caller: Access, job_id: str, kind: str = "job") -> JobStatus:
    """Where the caller's job is.

    Raises:
        Refusal: there is no such job, or it belongs to another tenant; the answer is the same.
    """
    try:
        return _of(caller, job_id, await gateway.client.job(job_id).status())
    except JobNotFound:
        raise not_found(kind, job_id) from None


async def progress_of(gateway: Gateway, caller: Access, job_id: str) -> JobProgress:
    """How far the caller's job has come, without the rest of its record.

    Raises:
        Refusal: see `status_of`.
    """
    try:
        return _of(caller, job_id, await progress(gateway.client.job(job_id)))
    except JobNotFound:
        raise not_found("job", job_id) from None


def _of(caller: Access, job_id: str, found: T) -> T:
    if found.tenant != caller.tenant:
        raise JobNotFound(job_id)
    return found
