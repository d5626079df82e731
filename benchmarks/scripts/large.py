"""Jobs with long logs, and jobs, results and webhooks of many bytes."""

from redis import Redis

from headrace.schemas.events import End, JobState, Output, chunk_payload
from headrace.schemas.scripts import (
    Call,
    ClaimedJob,
    ReleaseReason,
    Segment,
    accept_delivery,
    advance,
    cancel,
    claim_deliveries,
    drop_dead,
    finish,
    recover,
    release,
    requeue_dead,
    run,
    run_many,
    upkeep,
)

from .queue import LEASE_MS, SETTINGS, TAG, Named, added, claimed, empty, taken

CALLS = 5
WORD = " word"
END = End(offset=0, end=JobState.SUCCEEDED, finish_reason="stop")


class LongLog:
    """A queue of jobs with so many tokens in their logs, one a chunk; `calls` take what may follow that."""

    def __init__(self, redis: Redis, tokens: int) -> None:
        self.redis, self.tokens = redis, tokens
        empty(redis)
        run(redis, added())
        (job,) = taken(redis, worker="writer")
        for start in range(0, tokens, 1000):
            ends = range(start + 1, min(start + 1000, tokens) + 1)
            run(redis, advance(TAG, LEASE_MS, [self._chunk(job, end) for end in ends]))
        self._log = TAG.out(job.job_id)

    @staticmethod
    def _chunk(job: ClaimedJob, end: int) -> Segment:
        return Segment(
            job.job_id, job.fence, end - 1, end, chunk_payload(end, [WORD], [1000 + end % 1000], None)
        )

    def _nothing(self, job: ClaimedJob) -> Segment:
        return Segment(job.job_id, job.fence, self.tokens, self.tokens)

    def _running(self, worker: str = "w", **fields: object) -> ClaimedJob:
        run(self.redis, added(**fields))
        (job,) = taken(self.redis, worker=worker)
        self.redis.copy(self._log, TAG.out(job.job_id))
        self.redis.hset(TAG.job(job.job_id), "offset", self.tokens)
        return job

    def _waiting(self) -> str:
        job = self._running()
        run(self.redis, release(TAG, self._nothing(job), ReleaseReason.DRAIN))
        return job.job_id

    def _letter(self) -> str:
        ((entry, _),) = self.redis.xrevrange(TAG.dead, count=1)
        return entry.decode()

    def calls(self) -> Named:
        for _ in range(CALLS):
            yield from self._held()
            yield from self._ended_unattended()
            yield from self._dead()

    def _held(self) -> Named:
        job = self._running()
        yield "advance", [advance(TAG, LEASE_MS, [self._chunk(job, self.tokens + 1)])]
        job = self._running()
        yield "release", [release(TAG, self._nothing(job), ReleaseReason.DRAIN)]
        yield "claim", [claimed()]
        text, token_ids = WORD * self.tokens, tuple(range(1000, 1000 + self.tokens))
        output = Output(text=text, token_ids=token_ids, finish_reason="stop")
        yield "finish", [finish(TAG, self._nothing(self._running()), END, output)]

    def _ended_unattended(self) -> Named:
        """The ends of jobs whose results Redis puts together from their logs."""
        yield "cancel a job that waits", [cancel(TAG, self._waiting())]
        job = self._running()
        yield "cancel a job that runs", [cancel(TAG, job.job_id)]
        yield "release a cancelled job", [release(TAG, self._nothing(job), ReleaseReason.DRAIN)]
        self.redis.hset(TAG.job(self._waiting()), "deadline_ms", 1)
        yield "claim past an expired job", [claimed()]
        job_id = self._waiting()
        self.redis.hset(TAG.job(job_id), "deadline_ms", 1)
        self.redis.zadd(TAG.deadlines, {job_id: 1})
        yield "upkeep of an expired job", [upkeep(TAG, SETTINGS, LEASE_MS)]

    def _dead(self) -> Named:
        dies = recover(TAG, "dies", SETTINGS, blamed=True)
        for from_scratch, name in ((False, "requeue_dead"), (True, "requeue_dead, from scratch")):
            self._running("dies", max_attempts=1)
            yield "recover the last attempt", [dies]
            yield name, [requeue_dead(TAG, self._letter(), from_scratch=from_scratch)]
            (again,) = taken(self.redis)
            run(self.redis, finish(TAG, self._nothing(again), END, Output(finish_reason="stop")))
        self._running("dies", max_attempts=1)
        run(self.redis, dies)
        yield "drop_dead", [drop_dead(TAG, self._letter())]


class LargeJobs:
    """Jobs, results and webhooks of so many bytes; `calls` take what carries them."""

    def __init__(self, redis: Redis, size: int) -> None:
        self.redis, self.size = redis, size
        empty(redis)

    def calls(self) -> Named:
        run_many(self.redis, [added() for _ in range(CALLS)])
        segments = [Segment(job.job_id, job.fence, 0, 0) for job in taken(self.redis, CALLS)]
        tools = [{"name": "f", "description": "x" * self.size}]
        fields = {"messages": [{"role": "user", "content": "hi"}], "tools": tools}
        yield "enqueue", [added(**fields) for _ in range(CALLS)]
        yield "claim", [claimed() for _ in range(CALLS)]
        run_many(self.redis, [added(**fields) for _ in range(CALLS)])
        yield "claim all that wait", [claimed(100)]
        output = Output(text="x" * self.size, finish_reason="stop")
        yield "finish", [finish(TAG, each, END, output) for each in segments]
        yield "accept_delivery", [self._accepted() for _ in range(CALLS)]
        yield "claim_deliveries", [claim_deliveries(TAG, 1, 60, "n") for _ in range(CALLS)]

    def _accepted(self) -> Call[bool]:
        entry = self.redis.xadd(TAG.outbox, {"job": "j"}).decode()
        about = {"job_id": "j", "event": "job.succeeded", "tenant": "t", "url": "https://example.com/"}
        return accept_delivery(TAG, entry, body="x" * self.size, secret="", retention_s=600, **about)
