"""Pausing and resuming queues."""

from ...schemas.job import JobClass
from ...schemas.scripts import one, pause, resume
from ...schemas.scripts.pause import ALL
from ..operations import Operations
from ..steps import Calls, Read, Steps
from .chosen import Chosen, tags_of
from .overview import Facts, model_tags


class PausedQueue(Facts):
    """A queue that an operator has paused.

    Attributes:
        model: the model whose queue it is.
        job_class: only jobs of this class; None for every class.
        tenant: only jobs of this tenant; None for every tenant.
        since_ms: when it was paused, in ms since the epoch by Redis's clock.
    """

    model: str
    job_class: JobClass | None = None
    tenant: str | None = None
    since_ms: int = 0


def pause_queue(operations: Operations, model: str, chosen: Chosen) -> Steps[None]:
    """Start no more of these jobs.

    Raises:
        BadSetting: the name is empty, or this queue has too many pauses.
        UnknownModel: no worker has ever served the model here.
    """
    tags = yield from tags_of(operations, model)
    calls = [pause(tag, chosen.job_class or ALL, chosen.tenant or ALL) for tag in tags]
    for outcome in (yield from operations.send(Calls(calls))):
        one([outcome])


def resume_queue(operations: Operations, model: str, chosen: Chosen) -> Steps[bool]:
    """End exactly this pause; return whether there was one.

    Raises:
        BadSetting: the name is empty.
        UnknownModel: no worker has ever served the model here.
    """
    tags = yield from tags_of(operations, model)
    calls = [resume(tag, chosen.job_class or ALL, chosen.tenant or ALL) for tag in tags]
    ended = [one([outcome]) for outcome in (yield from operations.send(Calls(calls)))]
    return any(ended)


def read_pauses(operations: Operations) -> Steps[list[PausedQueue]]:
    """Every pause, by model, class and tenant."""
    tags = yield from model_tags(operations)
    replies = yield from operations.send(Read([("HGETALL", tag.paused) for tag in tags]))
    since: dict[tuple[str, str], int] = {}
    for tag, fields in zip(tags, replies, strict=True):
        for name, at_ms in fields.items():
            part = (tag.model, name.decode())
            # Partitions are paused one by one, some perhaps only by a repeated call: the first time counts.
            since[part] = min(int(at_ms), since.get(part, int(at_ms)))
    return [_pause(model, name, at_ms) for (model, name), at_ms in sorted(since.items())]


def _pause(model: str, name: str, since_ms: int) -> PausedQueue:
    job_class, _, tenant = name.partition(":")
    return PausedQueue(
        model=model,
        job_class=None if job_class == ALL else JobClass(job_class),
        tenant=None if tenant == ALL else tenant,
        since_ms=since_ms,
    )
