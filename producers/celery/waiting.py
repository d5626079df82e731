"""Why a task has no result yet: its job waits, it has no job, or nobody completes its app's tasks."""

from celery import Celery

from ...schemas import keys
from ...schemas.errors import BrokerUnavailable
from ...schemas.presence import present, serves
from ..client import Client, JobHandle
from ..operations import Operations
from ..steps import Read, ServerInfo, Steps
from ..waiting import Waiting, WaitReason, explain

UNREGISTERED = (
    "it was taken by a Celery worker that doesn't know this task. Every worker and beat of the app must "
    'import it, include=[..., "headrace.celery"], and have HEADRACE_REDIS_URL'
)

_NO_JOB = (
    "it has no job yet: the previous task has not ended, or ran on a Celery worker that doesn't import "
    "headrace.celery or has another HEADRACE_REDIS_URL"
)


def explain_task(client: Client, app: Celery, job: JobHandle | None) -> Waiting | None:
    """Why there is no result; None if that is unknown. `job` is None if the task has no job."""
    if job is None:
        return Waiting(WaitReason.NO_JOB, _NO_JOB)
    try:
        waiting = client._run(explain(client._operations, job.id))
        if waiting is not None and waiting.reason is WaitReason.ENDED:
            return client._run(_uncompleted(client._operations, app.main))
    except BrokerUnavailable:
        return None
    return waiting


def _uncompleted(operations: Operations, app: str | None) -> Steps[Waiting]:
    info = yield from operations.send(ServerInfo())
    (said,) = yield from operations.send(Read((("HGETALL", keys.callbacks(operations.settings.namespace)),)))
    living = present(divmod(int(info["server_time_usec"]), 1_000_000), said)
    if serves(living, app):
        return Waiting(WaitReason.ENDED, "its job has ended, and headrace callbacks will complete the task")
    others = f"only for {', '.join(map(repr, sorted(living)))}" if living else "for no app at all"
    text = (
        f"its job has ended, but no headrace callbacks are running to complete tasks of the Celery app "
        f"{app!r}, {others}; start headrace callbacks --app module:name"
    )
    return Waiting(WaitReason.NO_CALLBACKS, text)
