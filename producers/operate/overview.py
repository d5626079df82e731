"""Queues and workers: `client.queues()` and `client.workers()`."""

from collections import Counter
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict

from ...schemas import keys
from ...schemas.errors import WorkerNotFound
from ...schemas.job import JobClass
from ...schemas.keys import Tag
from ...schemas.scripts import drain
from ..operations import Operations
from ..steps import Read, Steps, check_name, check_seconds

PAGE = 1000
"""Jobs read in one round trip."""

MOST_JOBS = 20_000
"""Jobs of a partition that are looked at one by one, because they run or have run before. The console asks
every second; beyond this many, that counts too few of them."""


class Facts(BaseModel):
    """Facts of which older programs write fewer, and newer ones more."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class QueueInfo(Facts):
    """The jobs of one model, class and tenant.

    Attributes:
        model: the served name of the model.
        job_class: the class of the jobs.
        tenant: the tenant whose jobs they are.
        depth: number of waiting jobs, including those on their way to another worker.
        bytes: size of the waiting jobs as JSON.
        running: number of running jobs.
        paused: whether an operator has paused it, alone or with its model, class or tenant.
    """

    model: str
    job_class: JobClass
    tenant: str
    depth: int = 0
    bytes: int = 0
    running: int = 0
    paused: bool = False


class WorkerInfo(Facts):
    """An engine process that was heard from within the last minute.

    Attributes:
        id: its name, new with each start of the process.
        model: the served name of its model.
        pages_total: number of its KV pages.
        pages_free: number of KV pages that no job holds.
        running: number of jobs in its batch.
        waiting: number of jobs that it has claimed and not yet added to the batch.
        max_batch_size: maximum number of jobs in its batch.
        pid: its process id on its own machine.
        fingerprint: identifies what decides its tokens; a job with tokens continues only on an equal one.
        heartbeat_ms: when it was last heard from, in ms since the epoch by Redis's clock.
    """

    id: str
    model: str
    pages_total: int = 0
    pages_free: int = 0
    running: int = 0
    waiting: int = 0
    max_batch_size: int = 0
    pid: int = 0
    fingerprint: str = ""
    heartbeat_ms: int = 0


def read_workers(operations: Operations) -> Steps[list[WorkerInfo]]:
    """The workers of all models served here."""
    tags = yield from model_tags(operations)
    listed = yield from operations.send(Read([("ZRANGE", tag.workers, 0, -1, "WITHSCORES") for tag in tags]))
    found = [
        (tag, worker_id.decode(), int(heartbeat_ms))
        for tag, members in zip(tags, listed, strict=True)
        for worker_id, heartbeat_ms in zip(members[::2], members[1::2], strict=True)
    ]
    facts = yield from operations.send(Read([("HGETALL", tag.worker(name)) for tag, name, _ in found]))
    workers = {  # a worker serves all partitions of its model and is listed in each
        name: WorkerInfo(
            id=name,
            heartbeat_ms=heartbeat_ms,
            **{key.decode(): value.decode() for key, value in said.items()},
        )
        for (_, name, heartbeat_ms), said in zip(found, facts, strict=True)
        if said
    }
    return [workers[name] for name in sorted(workers)]


@dataclass(frozen=True, slots=True)
class _Lane:
    model: str
    job_class: JobClass
    tenant: str

    @property
    def parts(self) -> tuple[str, ...]:
        """The pauses that apply to the lane, as fields of `Tag.paused`."""
        return "*:*", f"{self.job_class}:*", f"*:{self.tenant}", f"{self.job_class}:{self.tenant}"


def drain_worker(operations: Operations, worker_id: str, finish_s: float) -> Steps[WorkerInfo]:
    """Ask a worker, named by its id or a unique beginning of it, to hand over its jobs and exit.

    Raises:
        BadSetting: the name is empty, or `finish_s` isn't a number of seconds.
        WorkerNotFound: no worker's id begins like this, or more than one does.
    """
    check_name("worker_id", worker_id)
    check_seconds("finish_s", finish_s)
    workers = yield from read_workers(operations)
    # A whole id wins, since it may also be the beginning of another.
    found = [worker for worker in workers if worker.id == worker_id] or [
        worker for worker in workers if worker.id.startswith(worker_id)
    ]
    if len(found) != 1:
        raise WorkerNotFound(worker_id, [worker.id for worker in found or workers])
    settings = operations.settings
    for partition in range(settings.partitions):
        tag = Tag(found[0].model, partition, settings.namespace)
        yield from operations.send(drain(tag, found[0].id, finish_s))
    return found[0]


def read_queues(operations: Operations) -> Steps[list[QueueInfo]]:
    """The queues with waiting or running jobs, of all models served here."""
    tags = yield from model_tags(operations)
    depth: Counter[_Lane] = Counter()
    size: Counter[_Lane] = Counter()
    running: Counter[_Lane] = Counter()
    pauses = yield from operations.send(Read([("HKEYS", tag.paused) for tag in tags]))
    paused = {(tag.model, name.decode()) for tag, names in zip(tags, pauses, strict=True) for name in names}
    for tag in tags:
        yield from _read_tag(operations, tag, depth, size, running)
    lanes = sorted(
        {lane for counter in (depth, running) for lane, count in counter.items() if count > 0},
        key=lambda lane: (lane.model, list(JobClass).index(lane.job_class), lane.tenant),
    )
    return [
        QueueInfo(
            model=lane.model,
            job_class=lane.job_class,
            tenant=lane.tenant,
            depth=depth[lane],
            bytes=size[lane],
            running=running[lane],
            paused=any((lane.model, part) in paused for part in lane.parts),
        )
        for lane in lanes
    ]


def _read_tag(
    operations: Operations,
    tag: Tag,
    depth: "Counter[_Lane]",
    size: "Counter[_Lane]",
    running: "Counter[_Lane]",
) -> Steps[None]:
    """Count one partition. A lane's stream holds its waiting jobs and the running ones that came from it."""
    ids = yield from _apart(operations, tag)
    queued_bytes, parked, *backlogs = yield from operations.send(
        Read(
            (
                ("HGETALL", tag.queued_bytes),
                ("SMEMBERS", tag.parked),
                *(("ZRANGE", tag.backlog(job_class), 0, -1) for job_class in JobClass),
            )
        )
    )
    for field, count in queued_bytes.items():
        job_class, _, tenant = field.decode().partition(":")
        size[_Lane(tag.model, JobClass(job_class), tenant)] += int(count)
    waiting_lanes = {
        _Lane(tag.model, job_class, tenant.decode()): None
        for job_class, tenants in zip(JobClass, backlogs, strict=True)
        for tenant in tenants
    } | dict.fromkeys(_parked_lane(tag, name.decode()) for name in parked)
    # Lengths and records are read in one round trip, so that they belong to the same moment; of many records,
    # only the first are.
    lengths = [("XLEN", tag.lane(lane.job_class, lane.tenant)) for lane in waiting_lanes]
    records = [("HMGET", tag.job(job_id), "state", "class", "tenant", "stream") for job_id in ids]
    replies = yield from operations.send(Read((*lengths, *records[:PAGE])))
    waiting = Counter(dict(zip(waiting_lanes, replies, strict=False)))
    found = replies[len(lengths) :]
    for at in range(PAGE, len(records), PAGE):
        found += yield from operations.send(Read(records[at : at + PAGE]))
    for state, job_class, tenant, stream in found:
        if state not in {b"queued", b"running"}:
            continue
        lane = _Lane(tag.model, JobClass(job_class.decode()), tenant.decode())
        in_lane = stream is not None and stream.decode() == tag.lane(lane.job_class, lane.tenant)
        if state == b"running":
            running[lane] += 1
            # Its entry stays in the lane while it runs, so it was counted there.
            waiting[lane] -= in_lane
        elif not in_lane:
            waiting[lane] += 1
    # Unary plus leaves out what is not above zero.
    depth.update(+waiting)


def _apart(operations: Operations, tag: Tag) -> Steps[list[str]]:
    """The jobs that the lengths of lanes don't tell: those that run, and those that have run before."""
    (some_only,) = yield from operations.send(Read((("ZRANGE", tag.readers, 0, -1),)))
    readers = (*JobClass, *(name.decode() for name in some_only))
    streams = [stream for name in readers for stream in (tag.retry(name), tag.suspects(name))]
    first = [("XRANGE", stream, "-", "+", "COUNT", PAGE) for stream in streams]
    (cursor, leased), *pages = yield from operations.send(
        Read((("ZSCAN", tag.leases, 0, "COUNT", PAGE), *first))
    )
    ids = dict.fromkeys(name.decode() for name, _ in leased)
    while cursor and len(ids) < MOST_JOBS:
        ((cursor, leased),) = yield from operations.send(
            Read((("ZSCAN", tag.leases, cursor, "COUNT", PAGE),))
        )
        ids |= dict.fromkeys(name.decode() for name, _ in leased)
    for stream, entries in zip(streams, pages, strict=True):
        page = entries
        while page and len(ids) < MOST_JOBS:
            ids |= dict.fromkeys(fields[b"job"].decode() for _, fields in page if b"job" in fields)
            if len(page) < PAGE:
                break
            after = f"({page[-1][0].decode()}"
            (page,) = yield from operations.send(Read((("XRANGE", stream, after, "+", "COUNT", PAGE),)))
    return list(ids)[:MOST_JOBS]


def _parked_lane(tag: Tag, name: str) -> _Lane:
    job_class, _, tenant = name.partition(":")
    return _Lane(tag.model, JobClass(job_class), tenant)


def model_tags(operations: Operations) -> Steps[list[Tag]]:
    """The queues of every model served here."""
    settings = operations.settings
    (names,) = yield from operations.send(Read((("HKEYS", keys.models(settings.namespace)),)))
    return [
        Tag(name.decode(), partition, settings.namespace)
        for name in sorted(names)
        for partition in range(settings.partitions)
    ]
