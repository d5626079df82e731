"""A seeded random walk over every script, against a plain model of the protocol, on real Redis."""

import random
from dataclasses import dataclass, field

import pytest

from headrace.schemas.keys import is_permanent
from headrace.schemas.scripts import ClaimedJob

pytestmark = pytest.mark.leaves_jobs

STEPS = 1500
TERMINAL = {"succeeded", "failed", "cancelled", "expired"}


@dataclass
class ModelJob:
    """What the protocol says a job must be."""

    state: str
    max_attempts: int
    tokens: int = 0
    attempts: int = 0
    cancelled: bool = False
    owner: ClaimedJob | None = None
    stale: list[ClaimedJob] = field(default_factory=list)

    def lose_owner(self) -> None:
        if self.owner is not None:
            self.stale.append(self.owner)
            self.owner = None


class Walk:
    def __init__(self, queue, seed: int) -> None:
        self.queue, self.rng = queue, random.Random(seed)
        self.jobs: dict[str, ModelJob] = {}

    def pick(self, *states: str) -> str | None:
        found = [job_id for job_id, job in self.jobs.items() if job.state in states]
        return self.rng.choice(found) if found else None

    # Operations: each does the same to Redis and to the model.

    def enqueue(self) -> None:
        delay_s = self.rng.choice([0, 0, 0, 100])
        attempts = self.rng.randint(1, 4)
        job_id = self.queue.add(
            delay_s=delay_s,
            max_attempts=attempts,
            tenant=self.rng.choice("abc"),
            job_class=self.rng.choice(["interactive", "standard", "batch"]),
            deadline_s=self.rng.choice([None, 1000]),
        )
        self.jobs[job_id] = ModelJob("delayed" if delay_s else "queued", attempts)

    def promote(self) -> None:
        if job_id := self.pick("delayed"):
            self.queue.make_due(job_id, self.queue.tag.delayed)
            assert self.queue.upkeep().promoted == 1
            self.jobs[job_id].state = "queued"

    def claim(self) -> None:
        worker = self.rng.choice(["w1", "w2"])
        for claimed in self.queue.claim(slots=self.rng.randint(0, 4), worker=worker, nonce=worker).jobs:
            job = self.jobs[claimed.job_id]
            assert job.state == "queued"
            assert (claimed.offset, claimed.attempts) == (job.tokens, job.attempts)
            assert [t for chunk in claimed.log for t in chunk.token_ids] == list(range(job.tokens))
            job.state, job.owner = "running", claimed

    def advance(self) -> None:
        if job_id := self.pick("running"):
            job = self.jobs[job_id]
            start = max(0, job.tokens + self.rng.choice([0, 0, 0, -1, 2]))
            offset = start + self.rng.randint(1, 4)
            answer = self.queue.advance(job.owner, start, offset)
            if start == job.tokens:
                job.tokens = offset
            elif offset > job.tokens:
                assert (answer.status, answer.log_offset) == ("behind", job.tokens)
                return
            assert answer.status == ("cancelled" if job.cancelled else "ok")

    def write_as_a_stale_owner(self) -> None:
        stale = [(job_id, old) for job_id, job in self.jobs.items() for old in job.stale]
        if stale:
            job_id, old = self.rng.choice(stale)
            job = self.jobs[job_id]
            assert self.queue.advance(old, job.tokens, job.tokens + 1).status == "fenced"
            refused = "already" if job.state in TERMINAL else "fenced"
            assert self.queue.finish(old, job.tokens, job.tokens + 1).status == refused

    def finish(self) -> None:
        if job_id := self.pick("running"):
            job = self.jobs[job_id]
            offset = job.tokens + self.rng.randint(0, 3)
            state = self.rng.choice(["succeeded", "failed"])
            assert self.queue.finish(job.owner, job.tokens, offset, state).status == "ok"
            job.state, job.tokens = state, offset
            job.lose_owner()

    def release(self) -> None:
        if job_id := self.pick("running"):
            job = self.jobs[job_id]
            answer = self.queue.release(job.owner, job.tokens, job.tokens + 2)
            job.tokens += 2
            job.lose_owner()
            assert answer.status == ("cancelled" if job.cancelled else "ok")
            job.state = "cancelled" if job.cancelled else "queued"

    def cancel(self) -> None:
        if job_id := self.pick("delayed", "queued", "running", *TERMINAL):
            job, answer = self.jobs[job_id], self.queue.cancel(job_id)
            if job.state in TERMINAL:
                assert answer == "already"
            elif job.state == "running":
                assert answer == "cancelling"
                job.cancelled = True
            else:
                assert answer == "cancelled"
                job.state = "cancelled"

    def lapse(self) -> None:
        if job_id := self.pick("running"):
            self.queue.lapse(job_id)
            self._died(self.jobs[job_id])

    def recover(self) -> None:
        worker = self.rng.choice(["w1", "w2"])
        mine = [job for job in self.jobs.values() if job.owner and job.owner.fence.endswith(worker)]
        assert self.queue.recover(worker, blamed=self.rng.random() < 0.5) == len(mine)
        for job in mine:
            self._died(job)

    def _died(self, job: ModelJob) -> None:
        job.attempts += 1
        job.lose_owner()
        if job.cancelled:
            job.state = "cancelled"
        else:
            job.state = "failed" if job.attempts >= job.max_attempts else "queued"

    def expire(self) -> None:
        job_id = self.pick("queued", "delayed")
        if job_id and self.queue.redis.zscore(self.queue.tag.deadlines, job_id):
            self.queue.make_due(job_id, self.queue.tag.deadlines)
            assert self.queue.upkeep().expired == 1
            self.jobs[job_id].state = "expired"

    # Invariants.

    def check(self, job_id: str) -> None:
        job, record = self.jobs[job_id], self.queue.record(job_id)
        assert record.state == job.state
        assert int(record.fields.get("offset", 0)) == job.tokens
        assert int(record.fields.get("attempts", 0)) == job.attempts
        log = self.queue.log(job_id)
        assert [entry for entry in log if entry.endswith("-1")] == (
            [f"{job.tokens}-1"] if job.state in TERMINAL else []
        )

    def check_all(self) -> None:
        redis, tag = self.queue.redis, self.queue.tag
        for job_id in self.jobs:
            self.check(job_id)
        running = {job_id for job_id, job in self.jobs.items() if job.state == "running"}
        assert {member.decode() for member in redis.zrange(tag.leases, 0, -1)} == running
        queued = sum(job.state == "queued" for job in self.jobs.values())
        assert self.queue.upkeep().queued == queued
        for key in redis.scan_iter():
            name = key.decode()
            if not is_permanent(name):
                ended = self.jobs[name.rpartition(":")[2]].state in TERMINAL
                assert (redis.ttl(key) > 0) == ended, name


@pytest.mark.parametrize("seed", range(4))
def test_any_order_of_operations_keeps_to_the_protocol(queue, seed):
    walk = Walk(queue, seed)
    operations = {
        walk.enqueue: 10,
        walk.claim: 8,
        walk.advance: 20,
        walk.finish: 4,
        walk.release: 3,
        walk.lapse: 3,
        walk.recover: 1,
        walk.cancel: 3,
        walk.promote: 3,
        walk.expire: 1,
        walk.write_as_a_stale_owner: 4,
    }
    for step in range(STEPS):
        (operation,) = walk.rng.choices(list(operations), list(operations.values()))
        operation()
        if step % 100 == 99:
            walk.check_all()
    while any(job.state not in TERMINAL for job in walk.jobs.values()):
        walk.promote()
        walk.claim()
        walk.finish()
    walk.check_all()
    assert not list(queue.redis.scan_iter(match="*:lane:*"))
