"""What must be true after any fault, checked from outside by a reader of Redis."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from redis import Redis

from headrace.schemas.events import Chunk, End, JobState, Output, parse_event
from headrace.schemas.keys import Tag, is_permanent, tag_of
from headrace.schemas.wire import WireJob

from .audience import Watched

ENDED_ALSO = {
    JobState.CANCELLED: {JobState.SUCCEEDED, JobState.CANCELLED},
    JobState.EXPIRED: {JobState.SUCCEEDED, JobState.EXPIRED},
}
"""A cancel or a deadline may come too late."""


@dataclass(frozen=True, slots=True)
class Uninterrupted:
    """What a job's output is when nothing happens to it."""

    tokens: Sequence[int]
    text: str


def violations(
    redis: Redis, tag: Tag, jobs: Sequence[Watched], uninterrupted: Sequence[Uninterrupted]
) -> list[str]:
    """Every broken promise, as a sentence; none after a run in which nothing was lost."""
    found = [
        f"{job.job_id}: {wrong}"
        for job in jobs
        for wrong in job_violations(redis, job, uninterrupted[job.spec])
    ]
    return found + list(_queue(redis, tag, jobs)) + list(_outbox(redis, tag, jobs))


def job_violations(redis: Redis, job: Watched, expected: Uninterrupted) -> Iterator[str]:
    """What is wrong with one job, its end, its log and what its reader saw of it."""
    yield from job.problems
    record = _record(redis, job.job_id)
    if not record:
        yield "lost: it has no record"
        return
    state = JobState(record["state"])
    if not state.terminal:
        yield f"lost: it is still {state}"
        return
    wanted = JobState(job.fields.get("metadata", {}).get("ends", JobState.SUCCEEDED))
    if state not in ENDED_ALSO.get(wanted, {wanted}):
        yield f"ended {state}, not {wanted}"
    if job.end is not state:
        yield f"its reader was told {job.end}, its record says {state}"
    left = {"stream", "entry", "fence", "cancel", "suspect"} & record.keys()
    if left:
        yield f"its record still has {sorted(left)}"
    tokens, text = yield from _log(redis, job.job_id, state)
    result = Output.model_validate_json(record["result"])
    if list(result.token_ids) != tokens or result.text != text:
        yield f"its result differs from its log: {result.token_ids!r} {result.text!r} / {tokens!r} {text!r}"
    if int(record.get("offset", 0)) != len(tokens):
        yield f"offset {record.get('offset')} for {len(tokens)} tokens"
    if job.tokens is not None and (job.tokens != tokens or job.text != text):
        yield f"its reader saw {job.tokens!r} {job.text!r}, its log has {tokens!r} {text!r}"
    whole = state is JobState.SUCCEEDED
    if tokens != list(expected.tokens if whole else expected.tokens[: len(tokens)]):
        yield f"{tokens!r} instead of {expected.tokens!r}"
    if whole and text != expected.text:
        yield f"{text!r} instead of {expected.text!r}"


def _record(redis: Redis, job_id: str) -> dict[str, str]:
    record = redis.hgetall(tag_of(job_id).job(job_id))
    return {name.decode(): value.decode() for name, value in record.items()}


def _log(redis: Redis, job_id: str, state: JobState) -> Iterator[str]:
    """Every token once and in order, each entry named after its offset, one end and nothing after it."""
    tokens: list[int] = []
    text, ends = "", 0
    for entry_id, fields in redis.xrange(tag_of(job_id).out(job_id)):
        event = parse_event(fields[b"event"])
        if ends:
            yield f"an entry {entry_id!r} follows the end of its log"
        if isinstance(event, Chunk):
            if event.start != len(tokens) or entry_id != b"%d-0" % event.offset:
                yield f"its log goes on at {event.start} with {entry_id!r} after {len(tokens)} tokens"
            tokens += event.token_ids
            text += event.text
        else:
            assert isinstance(event, End)
            ends, text = ends + 1, text + event.text
            if event.end is not state or entry_id != b"%d-1" % len(tokens):
                yield f"its log ends {event.end} with {entry_id!r} after {len(tokens)} tokens"
    if ends != 1:
        yield f"its log has {ends} ends"
    return tokens, text


def _queue(redis: Redis, tag: Tag, jobs: Iterable[Watched]) -> Iterator[str]:
    """No job that nobody enqueued, no key that stays for ever, nothing that waits or runs."""
    wanted = {key for job in jobs for key in (tag.job(job.job_id), tag.out(job.job_id))}
    found = {key.decode() for key in redis.scan_iter(f"{tag.base}:*", count=1000)}
    ours = {key for key in found if key.startswith((f"{tag.base}:job:", f"{tag.base}:out:"))}
    for key in sorted(ours - wanted):
        yield f"{key} is nobody's"
    for key in sorted(found - ours):
        if redis.ttl(key) == -1 and not is_permanent(key):
            yield f"{key} stays for ever"
    for key in sorted(ours):
        if redis.ttl(key) < 0:
            yield f"{key} stays for ever"
    empty = (tag.leases, tag.delayed, tag.deadlines, tag.queued_bytes)
    left = [key for key in sorted(found) if key in empty or _holds_jobs(tag, key)]
    for key in left:
        yield f"{key} is not empty"


def _holds_jobs(tag: Tag, key: str) -> bool:
    return key.removeprefix(f"{tag.base}:").split(":")[0] in {"lane", "retry", "suspects", "dead"}


def _outbox(redis: Redis, tag: Tag, jobs: Iterable[Watched]) -> Iterator[str]:
    """One entry for each event that the job's webhook asks for."""
    found = Counter((fields[b"job"], fields[b"event"]) for _, fields in redis.xrange(tag.outbox))
    wanted: Counter[tuple[bytes, bytes]] = Counter()
    for job in jobs:
        record = _record(redis, job.job_id)
        if record:
            happened = {f"job.{record['state']}"} | ({"job.started"} if "started_ms" in record else set())
            asked = happened.intersection(WireJob.from_wire(record["spec"]).events)
            wanted.update((job.job_id.encode(), event.encode()) for event in asked)
    for entry in sorted(found | wanted):
        if found[entry] != wanted[entry]:
            yield f"the outbox has {found[entry]} entries of {entry}, not {wanted[entry]}"


def history(redis: Redis, job_id: str) -> str:
    """What Redis knows of a job, for whoever reads a violation."""
    log = [
        f"    {entry_id.decode()} {fields[b'event'].decode()}"
        for entry_id, fields in redis.xrange(tag_of(job_id).out(job_id))
    ]
    return "\n".join([f"  {_record(redis, job_id)}", *log])
