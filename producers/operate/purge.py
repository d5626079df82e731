"""Cancelling everything that waits in a queue.

Each job is cancelled by its own script call, and only if it has not started by then. Jobs that are enqueued
after the purge has begun are spared, so it ends no matter how fast they come.
"""

from collections.abc import Iterator, Sequence
from itertools import chain

from ...schemas.job import JobClass
from ...schemas.keys import Tag
from ...schemas.scripts import one, purge
from ..operations import Operations
from ..steps import Calls, Read, ServerInfo, Steps
from .chosen import Chosen, tags_of

PAGE = 200
"""Number of jobs cancelled in one round trip."""


def purge_queue(operations: Operations, model: str, chosen: Chosen, *, delayed: bool) -> Steps[int]:
    """Cancel the waiting jobs; return how many there were.

    Raises:
        BadSetting: an empty name.
        UnknownModel: no worker has ever served the model here.
    """
    tags = yield from tags_of(operations, model)
    # By Redis's clock, by which jobs are enqueued.
    info = yield from operations.send(ServerInfo())
    now_ms = int(info["server_time_usec"]) // 1000
    cancelled = 0
    for tag in tags:
        for stream in (yield from _streams(operations, tag, chosen)):
            cancelled += yield from _purge_stream(operations, tag, stream, chosen, now_ms)
        if delayed:
            cancelled += yield from _purge_delayed(operations, tag, chosen, now_ms)
    return cancelled


def _streams(operations: Operations, tag: Tag, chosen: Chosen) -> Steps[list[str]]:
    """The lanes with jobs, and the streams of jobs that have run, which hold those of every tenant."""
    classes = [chosen.job_class] if chosen.job_class else list(JobClass)
    readers, parked, *backlogs = yield from operations.send(
        Read(
            (
                ("ZRANGE", tag.readers, 0, -1),
                ("SMEMBERS", tag.parked),
                *(("ZRANGE", tag.backlog(job_class), 0, -1) for job_class in classes),
            )
        )
    )
    lanes = dict.fromkeys(
        chain(
            (
                (job_class, tenant.decode())
                for job_class, names in zip(classes, backlogs, strict=True)
                for tenant in names
            ),
            _pairs(parked),
        )
    )
    wanted = [
        tag.lane(job_class, tenant)
        for job_class, tenant in lanes
        if job_class in classes and chosen.tenant in {None, tenant}
    ]
    some = [*classes, *(name.decode() for name in readers if name.decode().partition(":")[0] in classes)]
    return wanted + [stream for name in some for stream in (tag.retry(name), tag.suspects(name))]


def _pairs(parked: set[bytes]) -> Iterator[tuple[str, str]]:
    for name in parked:
        job_class, _, tenant = name.decode().partition(":")
        yield job_class, tenant


def _purge_stream(operations: Operations, tag: Tag, stream: str, chosen: Chosen, now_ms: int) -> Steps[int]:
    """Cancel what was in a queue stream at `now_ms`; entries of running jobs are in there too, and stay."""
    cancelled, after = 0, "-"
    while True:
        (page,) = yield from operations.send(Read((("XRANGE", stream, after, now_ms, "COUNT", PAGE),)))
        ids = [fields[b"job"].decode(errors="replace") for _, fields in page if b"job" in fields]
        cancelled += yield from _cancel(operations, tag, ids, chosen, now_ms)
        if len(page) < PAGE:
            return cancelled
        after = f"({page[-1][0].decode()}"


def _purge_delayed(operations: Operations, tag: Tag, chosen: Chosen, now_ms: int) -> Steps[int]:
    cancelled = cursor = 0
    while True:
        # Not by rank or time: whatever else leaves the set meanwhile, a scan meets each job that stays.
        scan = ("ZSCAN", tag.delayed, cursor, "COUNT", PAGE)
        ((cursor, page),) = yield from operations.send(Read((scan,)))
        ids = [name.decode() for name, _ in page]
        cancelled += yield from _cancel(operations, tag, ids, chosen, now_ms)
        if not cursor:
            return cancelled


def _cancel(operations: Operations, tag: Tag, ids: Sequence[str], chosen: Chosen, now_ms: int) -> Steps[int]:
    """Cancel those of these jobs that were chosen and are older than the purge."""
    # This look only chooses. Whether a job has started since is checked by the script that cancels it.
    records = yield from operations.send(
        Read([("HMGET", tag.job(job_id), "class", "tenant", "enqueued_ms") for job_id in ids])
    )
    calls = [
        purge(tag, job_id)
        for job_id, record in zip(ids, records, strict=True)
        if _is_chosen(chosen, now_ms, *record)
    ]
    if not calls:
        return 0
    return sum([one([outcome]) for outcome in (yield from operations.send(Calls(calls)))])


def _is_chosen(
    chosen: Chosen, now_ms: int, job_class: bytes | None, tenant: bytes | None, enqueued_ms: bytes | None
) -> bool:
    moment = enqueued_ms or b""
    return (
        (chosen.job_class is None or job_class == chosen.job_class.encode())
        and (chosen.tenant is None or tenant == chosen.tenant.encode())
        and not (moment.isdigit() and int(moment) > now_ms)
    )
