"""A queue to call the scripts on, and shorthand for what a worker says."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from redis import Redis

from headrace.schemas.events import Choice, Chunk, End, JobState, Output, chunk_payload, parse_event
from headrace.schemas.ids import new_job_id
from headrace.schemas.job import Job
from headrace.schemas.keys import Tag
from headrace.schemas.record import Record
from headrace.schemas.scripts import (
    Advance,
    Call,
    ClaimedJob,
    ClaimReply,
    ClaimRequest,
    ReleaseReason,
    Segment,
    UpkeepCounts,
    advance,
    cancel,
    claim,
    enqueue,
    finish,
    recover,
    release,
    run,
    run_many,
    upkeep,
)
from headrace.schemas.settings.queue import QueueSettings
from headrace.schemas.wire import WireJob


@dataclass
class Queue:
    """One model's queue."""

    redis: Redis
    tag: Tag = field(default_factory=lambda: Tag("m"))
    settings: QueueSettings = field(default_factory=QueueSettings)

    def call(self, call: Call):
        return run(self.redis, call)

    def add(self, job_id: str | None = None, **fields: object) -> str:
        """Enqueue a job of 16 prompt tokens and 16 output tokens, unless told otherwise."""
        if "prompt" not in fields and "messages" not in fields:
            fields.setdefault("prompt_token_ids", [1] * 16)
        job = WireJob.make(**{"model": "m", "max_tokens": 16, **fields})
        return self.call(enqueue(self.tag, job_id or new_job_id("m"), job, self.settings))

    def fill(self, count: int, **fields: object) -> None:
        """Enqueue many equal jobs."""
        job = Job.make(**{"model": "m", "max_tokens": 16, "prompt": "What does str.split do?", **fields})
        calls = [enqueue(self.tag, new_job_id("m"), job, self.settings) for _ in range(count)]
        for outcome in run_many(self.redis, calls):
            assert isinstance(outcome, str)

    def claim(self, budget: int = 10**6, slots: int = 1000, **changes: object) -> ClaimReply:
        request = {"worker": "w", "nonce": "n", "lease_ms": 60_000, "budget_tokens": budget, "slots": slots}
        return self.call(claim(self.tag, ClaimRequest(**{**request, **changes})))

    def claimed(self, **changes: object) -> list[str]:
        """Ids of what a claim takes."""
        return [job.job_id for job in self.claim(**changes).jobs]

    def start(self, **fields: object) -> ClaimedJob:
        """Enqueue one job and claim it."""
        job_id = self.add(**fields)
        (job,) = self.claim().jobs
        assert job.job_id == job_id
        return job

    def chunks(self, job_id: str) -> list[Chunk]:
        """What can be read of the job's token log, as who resumes it does."""
        events = [parse_event(fields[b"event"]) for _, fields in self.redis.xrange(self.tag.out(job_id))]
        return [event for event in events if isinstance(event, Chunk)]

    def segment(
        self,
        job: ClaimedJob,
        start: int,
        offset: int,
        text: str = "t",
        choice: int = 0,
        finish_reason: str | None = None,
    ) -> Segment:
        token_ids, payload = list(range(start, offset)), ""
        if token_ids:
            payload = chunk_payload(offset, [text], token_ids, None, None, choice, finish_reason)
        return Segment(job.job_id, job.fence, start, offset, payload)

    def advance(
        self,
        job: ClaimedJob,
        start: int,
        offset: int,
        text: str = "t",
        lease_ms: int = 60_000,
        **of_choice: object,
    ) -> Advance:
        segment = self.segment(job, start, offset, text, **of_choice)
        (answer,) = self.call(advance(self.tag, lease_ms, [segment]))
        return answer

    def finish(
        self,
        job: ClaimedJob,
        start: int = 0,
        offset: int = 0,
        state: str = "succeeded",
        choices: Sequence[Choice] = (),
        **of_choice: object,
    ) -> Advance:
        end = End(offset=offset, end=JobState(state), finish_reason="stop")
        token_ids = choices[0].token_ids if choices else tuple(range(offset))
        output = Output(text="t", token_ids=token_ids, finish_reason="stop", choices=tuple(choices))
        return self.call(finish(self.tag, self.segment(job, start, offset, **of_choice), end, output))

    def release(
        self,
        job: ClaimedJob,
        start: int = 0,
        offset: int = 0,
        prompt_tokens: int = 0,
        **of_choice: object,
    ) -> Advance:
        segment = self.segment(job, start, offset, **of_choice)
        return self.call(release(self.tag, segment, ReleaseReason.DRAIN, prompt_tokens))

    def cancel(self, job_id: str) -> str:
        return self.call(cancel(self.tag, job_id))

    def upkeep(self) -> UpkeepCounts:
        return self.call(upkeep(self.tag, self.settings)).counts

    def recover(self, worker: str, *, blamed: bool) -> int:
        taken = self.call(recover(self.tag, worker, self.settings, blamed=blamed))
        assert taken.left == 0
        return taken.jobs

    def lapse(self, job_id: str) -> UpkeepCounts:
        """Let the job's lease lapse."""
        self.redis.zadd(self.tag.leases, {job_id: 1})
        return self.upkeep()

    def make_due(self, job_id: str, index: str) -> None:
        """Move a delay or deadline into the past."""
        self.redis.zadd(index, {job_id: 1})
        if index == self.tag.deadlines:
            self.redis.hset(self.tag.job(job_id), "deadline_ms", 1)

    def record(self, job_id: str) -> Record:
        table = self.redis.hgetall(self.tag.job(job_id))
        return Record(job_id, {name.decode(): value.decode() for name, value in table.items()})

    def state(self, job_id: str) -> str:
        return self.record(job_id).state.value

    def log(self, job_id: str) -> list[str]:
        """Entry ids of the token log."""
        return [entry_id.decode() for entry_id, _ in self.redis.xrange(self.tag.out(job_id))]

    def outbox(self) -> list[tuple[str, str]]:
        entries = self.redis.xrange(self.tag.outbox)
        return [(fields[b"job"].decode(), fields[b"event"].decode()) for _, fields in entries]


@pytest.fixture
def queue(redis: Redis) -> Queue:
    return Queue(redis)
