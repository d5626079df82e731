"""A seeded random walk over every script, against a plain model of the protocol, on real Redis."""

import json
import random
from collections import Counter
from dataclasses import dataclass, field

import pytest

from headrace import IdempotencyConflict
from headrace.schemas.events import Choice
from headrace.schemas.job import JobClass
from headrace.schemas.keys import is_permanent
from headrace.schemas.scripts import ClaimedJob, requeue_dead
from headrace.schemas.scripts.upkeep import SUSPECT_MARGIN_TOKENS

pytestmark = pytest.mark.leaves_jobs

STEPS = 1500
TERMINAL = {"succeeded", "failed", "cancelled", "expired"}


@dataclass
class ModelJob:
    """What the protocol says a job must be; `late` is one whose deadline has passed.

    `answers` are the tokens of each choice, of which the `complete` ones have ended.
    """

    request: dict[str, object]
    state: str
    tokens: int = 0
    attempts: int = 0
    deaths: int = 0
    suspect: int | None = None
    has_deadline: bool = False
    cancelled: bool = False
    late: bool = False
    dead: bool = False
    owner: ClaimedJob | None = None
    stale: list[ClaimedJob] = field(default_factory=list)
    answers: list[list[int]] = field(default_factory=list)
    complete: set[int] = field(default_factory=set)
    endings: Counter[str] = field(default_factory=Counter)

    def written(self, start: int, offset: int, choice: int, finish_reason: str | None = None) -> None:
        """Note what was accepted of a chunk."""
        if start == self.tokens and offset > start:
            self.tokens = offset
            self.answers[choice] += range(start, offset)
            self.complete |= {choice} if finish_reason else set()

    def lose_owner(self) -> None:
        if self.owner is not None:
            self.stale.append(self.owner)
            self.owner = None

    def end(self, state: str) -> None:
        assert self.state not in TERMINAL
        self.state, self.cancelled, self.suspect = state, False, None
        self.endings[f"job.{state}"] += 1
        self.lose_owner()


class Walk:
    def __init__(self, queue, seed: int) -> None:
        self.queue, self.rng = queue, random.Random(seed)
        self.jobs: dict[str, ModelJob] = {}
        self.accompanied: set[str] = set()

    def pick(self, *states: str) -> str | None:
        found = [job_id for job_id, job in self.jobs.items() if job.state in states]
        return self.rng.choice(found) if found else None

    def held_by(self, worker: str) -> list[ModelJob]:
        return [job for job in self.jobs.values() if job.owner and job.owner.fence.endswith(worker)]

    # Operations: each does the same to Redis and to the model.

    def enqueue(self) -> None:
        request = {
            "delay_s": self.rng.choice([0, 0, 0, 100]),
            "max_attempts": self.rng.randint(1, 4),
            "tenant": self.rng.choice("abc"),
            "job_class": self.rng.choice(["interactive", "standard", "batch"]),
            "deadline_s": self.rng.choice([None, 1000]),
            "idempotency_key": self.rng.choice([None, f"key-{len(self.jobs)}"]),
            "webhook": {"url": "https://example.com/hook"},
            "n": self.rng.choice([1, 1, 3]),
        }
        job_id = self.queue.add(**request)
        state = "delayed" if request["delay_s"] else "queued"
        answers: list[list[int]] = [[] for _ in range(request["n"])]
        has_deadline = request["deadline_s"] is not None
        self.jobs[job_id] = ModelJob(request, state, has_deadline=has_deadline, answers=answers)

    def enqueue_again(self) -> None:
        """The first reply was lost, or the client sends its request a second time, or misuses its key."""
        if not (job_id := self.pick("delayed", "queued", "running", *TERMINAL)):
            return
        request = self.jobs[job_id].request
        assert self.queue.add(job_id, **request) == job_id
        if request["idempotency_key"]:
            assert self.queue.add(**request) == job_id
            with pytest.raises(IdempotencyConflict) as conflict:
                self.queue.add(**{**request, "max_tokens": 17})
            assert conflict.value.job_id == job_id

    def promote(self) -> None:
        if job_id := self.pick("delayed"):
            self.queue.make_due(job_id, self.queue.tag.delayed)
            assert self.queue.upkeep().promoted == 1
            self.jobs[job_id].state = "queued"

    def claim(self) -> None:
        worker = self.rng.choice(["w1", "w2"])
        held = self.held_by(worker)
        if any(job.suspect is not None for job in held):
            return
        if not held:
            self.accompanied.discard(worker)
        suspect_slots = self.rng.randint(0, 1) if not held else 0
        taken = self.queue.claim(
            slots=self.rng.randint(0, 4), worker=worker, nonce=worker, suspect_slots=suspect_slots
        ).jobs
        for claimed in taken:
            job = self.jobs[claimed.job_id]
            assert job.state == "queued"
            assert (claimed.offset, claimed.attempts) == (job.tokens, job.attempts)
            assert claimed.suspect_until == job.suspect
            assert [t for chunk in self.queue.chunks(claimed.job_id) for t in chunk.token_ids] == list(
                range(job.tokens)
            )
            job.state, job.owner = "running", claimed
        if any(claimed.suspect_until is not None for claimed in taken):
            assert (len(taken), suspect_slots) == (1, 1)

    def advance(self) -> None:
        if job_id := self.pick("running"):
            job = self.jobs[job_id]
            start = max(0, job.tokens + self.rng.choice([0, 0, 0, -1, 2]))
            offset = start + self.rng.randint(1, 4)
            chunk = self._of_choice(job)
            answer = self.queue.advance(job.owner, start, offset, **chunk)
            if start == job.tokens:
                job.written(start, offset, **chunk)
            elif offset > job.tokens:
                assert (answer.status, answer.log_offset) == ("behind", job.tokens)
                return
            if job.suspect is not None and offset > job.suspect:
                job.suspect = None
            wanted = "cancelled" if job.cancelled else "expired" if job.late else "ok"
            assert answer.status == wanted
            # The reply was lost.
            assert self.queue.advance(job.owner, start, offset, **chunk).status == wanted

    def _of_choice(self, job: ModelJob) -> dict[str, object]:
        """Which choice a chunk is of, and whether it ends it; the last one ends with its job."""
        going_on = [number for number in range(len(job.answers)) if number not in job.complete]
        ends = len(going_on) > 1 and self.rng.random() < 0.1
        return {"choice": self.rng.choice(going_on), "finish_reason": "length" if ends else None}

    def write_as_a_stale_owner(self) -> None:
        stale = [(job_id, old) for job_id, job in self.jobs.items() for old in job.stale]
        if stale:
            job_id, old = self.rng.choice(stale)
            job = self.jobs[job_id]
            assert self.queue.advance(old, job.tokens, job.tokens + 1).status == "fenced"
            assert self.queue.release(old, job.tokens, job.tokens + 1).status == "fenced"
            refused = "already" if job.state in TERMINAL else "fenced"
            assert self.queue.finish(old, job.tokens, job.tokens + 1).status == refused

    def finish(self) -> None:
        if job_id := self.pick("running"):
            job = self.jobs[job_id]
            offset, owner = job.tokens + self.rng.randint(0, 3), job.owner
            state = self.rng.choice(sorted(TERMINAL))
            assert self.queue.finish(owner, job.tokens + 1, offset + 2).status == "behind"
            start, chunk = job.tokens, self._of_choice(job)
            job.written(start, offset, **chunk)
            reasons = ["length" if number in job.complete else "stop" for number in range(len(job.answers))]
            choices = [
                Choice(token_ids=tuple(token_ids), finish_reason=reason)
                for token_ids, reason in zip(job.answers, reasons, strict=True)
            ]
            ending = (owner, start, offset, state, choices if len(choices) > 1 else ())
            assert self.queue.finish(*ending, **chunk).status == "ok"
            assert self.queue.finish(*ending, **chunk).status == "already"
            job.end(state)

    def release(self) -> None:
        if job_id := self.pick("running"):
            job = self.jobs[job_id]
            start, chunk = job.tokens, self._of_choice(job)
            answer = self.queue.release(job.owner, start, start + 2, **chunk)
            job.written(start, start + 2, **chunk)
            if job.suspect is not None and job.tokens > job.suspect:
                job.suspect = None
            assert answer.status == ("cancelled" if job.cancelled else "ok")
            if job.cancelled:
                job.end("cancelled")
            else:
                self._requeued(job)
            self._expire_late()

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
                job.end("cancelled")

    def lapse(self) -> None:
        if job_id := self.pick("running"):
            job = self.jobs[job_id]
            worker = job.owner.fence[-2:]
            self.queue.lapse(job_id)
            company = len(self.held_by(worker)) > 1
            self._died(job, blamed=False, alone=not company and worker not in self.accompanied)
            if company:
                self.accompanied.add(worker)
            self._expire_late()

    def recover(self) -> None:
        worker, blamed = self.rng.choice(["w1", "w2"]), self.rng.random() < 0.5
        mine = self.held_by(worker)
        assert self.queue.recover(worker, blamed=blamed) == len(mine)
        alone = len(mine) == 1 and worker not in self.accompanied
        for job in mine:
            self._died(job, blamed=blamed, alone=alone)
        self._expire_late()

    def _died(self, job: ModelJob, *, blamed: bool, alone: bool) -> None:
        alone = alone or job.suspect is not None
        job.attempts += alone
        job.deaths += 1
        if job.cancelled:
            job.end("cancelled")
        elif alone and job.attempts >= job.request["max_attempts"]:
            job.end("failed")
            job.dead = True
        else:
            self._requeued(job)
            if blamed or job.deaths > 1:
                margin = SUSPECT_MARGIN_TOKENS * len(job.answers)
                job.suspect = job.tokens + margin * 2 ** max(0, min(job.deaths - 2, 3))

    def _requeued(self, job: ModelJob) -> None:
        job.state = "queued"
        job.lose_owner()

    def pass_a_deadline(self) -> None:
        job_id = self.pick("queued", "delayed", "running")
        if job_id and self.jobs[job_id].has_deadline:
            self.queue.make_due(job_id, self.queue.tag.deadlines)
            self.jobs[job_id].late = True
            self._expire_late()

    def _expire_late(self) -> None:
        late = [job for job in self.jobs.values() if job.late and job.state in {"queued", "delayed"}]
        assert self.queue.upkeep().expired == len(late)
        for job in late:
            job.end("expired")

    def requeue_dead(self) -> None:
        letters = self.queue.redis.xrange(self.queue.tag.dead)
        if letters:
            entry_id, letter = self.rng.choice(letters)
            from_scratch = self.rng.random() < 0.5
            job_id = self.queue.call(
                requeue_dead(self.queue.tag, entry_id.decode(), from_scratch=from_scratch)
            )
            assert job_id == letter[b"job"].decode()
            job = self.jobs[job_id]
            assert job.dead
            job.state, job.attempts, job.dead, job.late, job.has_deadline = "queued", 0, False, False, False
            job.deaths = 0
            if from_scratch:
                job.tokens, job.complete, job.answers = 0, set(), [[] for _ in job.answers]

    # Invariants.

    def check(self, job_id: str) -> None:
        job, record = self.jobs[job_id], self.queue.record(job_id)
        assert record.state == job.state
        assert int(record.fields.get("offset", 0)) == job.tokens
        assert int(record.fields.get("attempts", 0)) == job.attempts
        assert ("fence" in record.fields) == (job.state == "running")
        entries = self.queue.redis.xrange(self.queue.tag.out(job_id))
        log = [(entry_id.decode(), json.loads(fields[b"event"])) for entry_id, fields in entries]
        tokens = [token for _, event in log for token in event.get("token_ids", ())]
        assert tokens == list(range(job.tokens))
        for number, token_ids in enumerate(job.answers):
            own = [event for _, event in log if event.get("choice", 0) == number and "token_ids" in event]
            assert [token for event in own for token in event["token_ids"]] == token_ids
            assert ("finish_reason" in (own or [{}])[-1]) == (number in job.complete)
        ended = job.state in TERMINAL
        ends = [(entry_id, event["end"]) for entry_id, event in log if "end" in event]
        assert ends == ([(f"{job.tokens}-1", job.state)] if ended else [])
        assert ("result" in record.fields) == ended
        if ended:
            result = record.result()
            assert result.token_ids == tuple(job.answers[0])
            if len(job.answers) > 1:
                assert [list(choice.token_ids) for choice in result.choices] == job.answers
                assert all(result.choices[number].finish_reason == "length" for number in job.complete)
            else:
                assert (result.choices, job.answers) == ((), [list(range(job.tokens))])

    def check_all(self) -> None:
        redis, tag = self.queue.redis, self.queue.tag
        for job_id in self.jobs:
            self.check(job_id)
        running = {job_id for job_id, job in self.jobs.items() if job.state == "running"}
        assert {member.decode() for member in redis.zrange(tag.leases, 0, -1)} == running
        held = [redis.zrange(tag.held(worker), 0, -1) for worker in ("w1", "w2")]
        assert {member.decode() for members in held for member in members} - {"*"} == running
        delayed = {job_id for job_id, job in self.jobs.items() if job.state == "delayed"}
        assert {member.decode() for member in redis.zrange(tag.delayed, 0, -1)} == delayed
        dead = sorted(job_id for job_id, job in self.jobs.items() if job.dead)
        assert sorted(fields[b"job"].decode() for _, fields in redis.xrange(tag.dead)) == dead
        queued = sum(job.state == "queued" for job in self.jobs.values())
        assert self.queue.upkeep().queued == queued
        self._check_queued_bytes()
        told = Counter(self.queue.outbox())
        endings = {(i, event): n for i, job in self.jobs.items() for event, n in job.endings.items()}
        assert told == endings
        for key in redis.scan_iter(count=1000):
            name = key.decode()
            if any(kind in name for kind in (":idem:", ":held:", ":trial", ":request:")):
                assert redis.ttl(key) > 0, name
            elif not is_permanent(name):
                ended = self.jobs[name.rpartition(":")[2]].state in TERMINAL
                assert (redis.ttl(key) > 0) == ended, name

    def _check_queued_bytes(self) -> None:
        waiting: Counter[str] = Counter()
        for job_id, job in self.jobs.items():
            if job.state == "queued":
                fields = self.queue.record(job_id).fields
                if ":lane:" in fields["stream"]:
                    waiting[f"{fields['class']}:{fields['tenant']}"] += len(fields["spec"])
        counted = self.queue.redis.hgetall(self.queue.tag.queued_bytes)
        assert {name.decode(): int(count) for name, count in counted.items()} == waiting


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2, 3))])
def test_any_order_of_operations_keeps_to_the_protocol(queue, seed):
    walk = Walk(queue, seed)
    operations = {
        walk.enqueue: 10,
        walk.enqueue_again: 2,
        walk.claim: 8,
        walk.advance: 20,
        walk.finish: 3,
        walk.release: 3,
        walk.lapse: 4,
        walk.recover: 1,
        walk.cancel: 3,
        walk.promote: 3,
        walk.pass_a_deadline: 2,
        walk.requeue_dead: 2,
        walk.write_as_a_stale_owner: 4,
    }
    for step in range(STEPS):
        (operation,) = walk.rng.choices(list(operations), list(operations.values()))
        operation()
        if step % 100 == 99:
            walk.check_all()
    assert {job.state for job in walk.jobs.values()} >= TERMINAL
    while any(job.state not in TERMINAL for job in walk.jobs.values()):
        walk.promote()
        walk.claim()
        walk.finish()
    walk.check_all()
    tag = queue.tag
    assert not queue.redis.exists(
        *(stream(job_class) for stream in (tag.retry, tag.suspects) for job_class in JobClass),
        *(tag.leases, tag.delayed, tag.deadlines, tag.queued_bytes),
    )
    assert not list(queue.redis.scan_iter(match="*:lane:*"))
