"""Take the jobs that fit a worker's free KV pages."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from ..job import SCHEMA_VERSION, JobClass
from ..keys import Tag
from ..redis.call import Call, script, text
from .ended import Ended, read_ended, readable


@dataclass(slots=True, frozen=True)
class ClaimRequest:
    """What a worker can take now.

    Attributes:
        worker: the worker's id, shown in the job's record.
        nonce: distinguishes this incarnation of the worker from any other in the fence.
        lease_ms: how long the claim holds without `advance`.
        budget_tokens: tokens that fit the free KV pages.
        slots: answers that fit the batch.
        page_size: tokens per KV page; costs are rounded up to whole pages.
        capacity_tokens: the most that one job can ever hold here.
        output_ratio: expected share of `max_tokens` that is really generated.
        tokens_per_byte: estimate for prompts whose tokens have not been counted.
        suspect_slots: 1 if the worker holds nothing; a suspect is then taken, and nothing beside it.
        classes: the classes to serve, most urgent first.
        max_v: newest schema version that the worker reads.
        resync: the reply to an earlier claim was lost: take nothing, and list what this incarnation holds.
        company: whether the worker may run jobs of other queues beside these.
        context_tokens: the most that one job of this model can ever hold anywhere.
        room_tokens: tokens that would fit if all less urgent jobs here gave way, by class.
        pool_tokens: the most that all jobs together can hold here.
        fingerprint: identifies the worker's model; it takes only jobs without tokens, or with tokens of this
            model.
    """

    worker: str
    nonce: str
    lease_ms: int
    # In whole pages, as jobs' costs are.
    budget_tokens: int
    slots: int
    page_size: int = 16
    capacity_tokens: int = 2**31
    output_ratio: float = 1.0
    tokens_per_byte: float = 0.5
    suspect_slots: int = 1
    classes: Sequence[JobClass] = tuple(JobClass)
    max_v: int = SCHEMA_VERSION
    resync: bool = False
    company: bool = False
    context_tokens: int = 2**31
    room_tokens: Mapping[JobClass, int] = field(default_factory=dict)
    pool_tokens: int = 2**31
    fingerprint: str = ""


@dataclass(slots=True)
class ClaimedJob:
    """A job that now belongs to this worker.

    Attributes:
        fence: proves ownership in every later write.
        spec: the job as JSON (`WireJob.from_wire`), unchecked, so it may not even be text. None if it would
            make the reply too long; it is then read from the job's record.
        offset: number of tokens in its log.
        attempts: how often a worker died over it while running nothing else.
        suspect_until: it stays a suspect until its log passes this offset; None if it isn't one.
        waited_ms: time since it was enqueued, by Redis's clock.
        prompt_tokens: as counted by a producer or worker; 0 if not counted yet.
        job_class, tenant: as in its record.
        cost_tokens: its cost in the claim's budget.
        spec_bytes: the spec's length.
        choices: how many answers it asks for, according to its record.
    """

    job_id: str
    fence: str
    spec: bytes | None
    offset: int
    attempts: int
    suspect_until: int | None
    waited_ms: int
    prompt_tokens: int = 0
    job_class: JobClass = JobClass.STANDARD
    tenant: str = ""
    cost_tokens: int = 0
    spec_bytes: int = 0
    choices: int = 1


@dataclass(slots=True)
class ClaimReply:
    """The outcome of a claim.

    Attributes:
        jobs: the jobs taken.
        blocked_class, blocked_tokens: class and cost of the head that didn't fit, if one stopped the claim;
            it is held for this worker.
        more: whether the claim has looked at as much as one may, so that the next one may find more.
        suspect_waits: whether the worker, which held nothing, should try another suspect next.
        ended: jobs that were found cancelled, expired or damaged, and have ended.
    """

    jobs: list[ClaimedJob]
    blocked_class: JobClass | None = None
    blocked_tokens: int = 0
    more: bool = False
    suspect_waits: bool = False
    ended: list[Ended] = field(default_factory=list)


def claim(tag: Tag, request: ClaimRequest) -> Call[ClaimReply]:
    """Take a suspect alone, or jobs until one doesn't fit: in each class first those that ran before."""
    return script("claim").call(
        tag.base,
        _parse,
        *(job_class.value for job_class in request.classes),
        worker=request.worker,
        nonce=request.nonce,
        lease_ms=request.lease_ms,
        budget=request.budget_tokens,
        slots=request.slots,
        page_size=request.page_size,
        capacity=request.capacity_tokens,
        output_ratio=request.output_ratio,
        tokens_per_byte=request.tokens_per_byte,
        suspect_slots=request.suspect_slots,
        max_v=request.max_v,
        resync=int(request.resync),
        company=int(request.company),
        context=request.context_tokens,
        # None for batch: nothing is less urgent, so nothing would give way to it.
        interactive_room=request.room_tokens.get(JobClass.INTERACTIVE, 0),
        standard_room=request.room_tokens.get(JobClass.STANDARD, 0),
        pool=request.pool_tokens,
        fingerprint=request.fingerprint,
    )


def _parse(reply: list[Any]) -> ClaimReply:
    taken, blocked, more, suspect_waits, ended = reply
    jobs = [_claimed(item) for item in taken]
    answer = ClaimReply(jobs, more=bool(more), suspect_waits=bool(suspect_waits), ended=read_ended(ended))
    if blocked:
        answer.blocked_class, answer.blocked_tokens = JobClass(text(blocked[0])), int(blocked[1])
    return answer


def _claimed(item: list[Any]) -> ClaimedJob:
    job_id, fence, spec, offset, attempts, suspect, waited_ms, prompt_tokens, *rest = item
    job_class, tenant, cost, spec_bytes, choices = rest
    claimed = ClaimedJob(
        job_id=readable(job_id),
        fence=readable(fence),
        spec=spec.encode() if isinstance(spec, str) else spec,
        offset=int(offset),
        attempts=int(attempts),
        # -1 in the reply: Redis turns Lua's nil into the end of the list.
        suspect_until=int(suspect) if int(suspect) >= 0 else None,
        waited_ms=int(waited_ms),
        prompt_tokens=int(prompt_tokens),
        tenant=readable(tenant),
        cost_tokens=int(cost),
        spec_bytes=int(spec_bytes),
        choices=int(choices),
    )
    with suppress(ValueError):  # a record that was damaged from outside affects only its own job
        claimed.job_class = JobClass(readable(job_class))
    return claimed
