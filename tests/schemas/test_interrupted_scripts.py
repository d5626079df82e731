"""Each call to Redis of each script fails in turn: the script, sent again, brings all to where it would be.

Redis undoes nothing when a script raises in the middle: missing rights for one command, a damaged key, a
server that takes an argument differently. So scripts write in such an order that a second try completes the
first.
"""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from redis.exceptions import ResponseError

from headrace.schemas import keys
from headrace.schemas.events import End, JobState, Output
from headrace.schemas.job import Job
from headrace.schemas.scripts import (
    BatchPart,
    Call,
    DueDelivery,
    ReleaseReason,
    accept_delivery,
    advance,
    advance_batch,
    cancel,
    claim,
    claim_batch,
    claim_deliveries,
    drain,
    drop_dead,
    end_batch,
    enqueue,
    finish,
    heartbeat,
    pause,
    purge,
    recover,
    release,
    replay_delivery,
    requeue_dead,
    resume,
    settle_delivery,
    upkeep,
)
from headrace.schemas.scripts.claim import ClaimRequest
from headrace.schemas.webhooks.delivery import DeliveryAttempt, DeliveryState, endpoint_id

pytestmark = pytest.mark.leaves_jobs

TERMINAL = ("succeeded", "failed", "cancelled", "expired")
JOB_ID = "01jd0000000000000000000000.0.m"
HOOK = {"url": "https://example.com/hook"}

FAULTY = """
local real, calls, fails = redis, 0, %d
local function fault()
  calls = calls + 1
  return calls == fails
end
local redis = {
  call = function(...) return fault() and error('interrupted') or real.call(...) end,
  pcall = function(...) return fault() and {err = 'ERR interrupted'} or real.pcall(...) end,
}
"""
MOMENT = re.compile(r"\b1\d{12}(\.\d+)?(-\d+)?\b")
"""A time in ms, or the id of a stream's entry that is made of one."""


def claim_one(resync: bool = False) -> Callable[[Any], Call]:
    return lambda queue: claim(queue.tag, ClaimRequest("w", "n", 60_000, 10**6, 10, resync=resync))


def add(queue, **fields: object) -> Call:
    job = Job.make(**{"model": "m", "max_tokens": 16, "prompt_token_ids": [1] * 16, **fields})
    return enqueue(queue.tag, JOB_ID, job, queue.settings)


def limited(queue, **policy: object) -> None:
    queue.redis.hset(queue.tag.tenants, "default", json.dumps(policy))


class Scenarios:
    """Each method sets a queue up and gives the call that is to be interrupted."""

    def enqueue(self, queue):
        limited(queue, requests_per_minute=60, tokens_per_minute=10_000, max_queued_jobs=9)
        return add(
            queue, idempotency_key="key", deadline_s=100, max_runtime_s=50, webhook=HOOK, job_class="batch"
        )

    def enqueue_delayed(self, queue):
        return add(queue, delay_s=50, deadline_s=100)

    def claim(self, queue):
        limited(queue, max_running=3)
        queue.call(add(queue, webhook=HOOK, max_runtime_s=50))
        return claim_one()(queue)

    def claim_what_has_run(self, queue):
        limited(queue, max_running=3)
        job = queue.start()
        queue.release(job, 0, 3)
        return claim_one()(queue)

    def claim_a_suspect(self, queue):
        queue.start(max_attempts=3)
        queue.recover("w", blamed=True)
        return claim_one()(queue)

    def claim_finds_expired_cancelled_and_broken_heads(self, queue):
        expired = queue.add(deadline_s=100, webhook=HOOK)
        queue.redis.hset(queue.tag.job(expired), "deadline_ms", 1)
        lost = queue.add()
        queue.redis.delete(queue.tag.job(lost))
        queue.redis.xadd(queue.tag.lane("standard", "default"), {"nonsense": 1})
        return claim_one()(queue)

    def claim_parks_a_tenant(self, queue):
        limited(queue, max_running=1)
        queue.start()
        queue.add()
        return claim_one()(queue)

    def advance(self, queue):
        jobs = [queue.start() for _ in range(2)]
        return advance(queue.tag, 60_000, [queue.segment(job, 0, 3) for job in jobs])

    def advance_clears_a_suspect(self, queue):
        queue.start(max_attempts=3)
        queue.recover("w", blamed=True)
        (job,) = queue.claim().jobs
        return advance(queue.tag, 60_000, [queue.segment(job, 0, 16)])

    def _finish(self, queue, state: str, **fields: object):
        limited(queue, max_running=1)
        job = queue.start(webhook=HOOK, deadline_s=100, **fields)
        queue.advance(job, 0, 2)
        queue.add()
        queue.claim()  # parks the tenant
        end = End(offset=4, end=JobState(state), finish_reason="stop")
        output = Output(text="t", token_ids=(0, 1, 2, 3), finish_reason="stop")
        return finish(queue.tag, queue.segment(job, 2, 4), end, output)

    def finish(self, queue):
        return self._finish(queue, "succeeded")

    def release(self, queue):
        job = queue.start(deadline_s=100)
        return release(queue.tag, queue.segment(job, 0, 3), ReleaseReason.DRAIN, 16)

    def release_of_a_cancelled_job(self, queue):
        job = queue.start(webhook=HOOK)
        queue.cancel(job.job_id)
        return release(queue.tag, queue.segment(job, 0, 3), ReleaseReason.DRAIN)

    def cancel_what_waits(self, queue):
        return cancel(queue.tag, queue.add(deadline_s=100, webhook=HOOK))

    def purge_what_waits(self, queue):
        return purge(queue.tag, queue.add(deadline_s=100, webhook=HOOK))

    def cancel_what_is_delayed(self, queue):
        return cancel(queue.tag, queue.add(delay_s=100))

    def cancel_what_runs(self, queue):
        return cancel(queue.tag, queue.start().job_id)

    def upkeep(self, queue):
        queue.make_due(queue.add(delay_s=100), queue.tag.delayed)
        queue.make_due(queue.add(deadline_s=100, webhook=HOOK), queue.tag.deadlines)
        return upkeep(queue.tag, queue.settings)

    def _lapsed(self, queue, **fields: object):
        job = queue.start(**fields)
        queue.advance(job, 0, 3)
        queue.redis.zadd(queue.tag.leases, {job.job_id: 1})
        return upkeep(queue.tag, queue.settings)

    def upkeep_takes_back(self, queue):
        return self._lapsed(queue, deadline_s=100)

    def upkeep_takes_back_a_suspect(self, queue):
        job = queue.start(max_attempts=3)
        queue.recover("w", blamed=True)
        queue.claim()
        queue.redis.zadd(queue.tag.leases, {job.job_id: 1})
        return upkeep(queue.tag, queue.settings)

    def upkeep_buries(self, queue):
        return self._lapsed(queue, max_attempts=1, webhook=HOOK)

    def recover(self, queue):
        for _ in range(2):
            queue.advance(queue.start(), 0, 3)
        queue.call(heartbeat(queue.tag, "w", {"model": "m"}))
        return recover(queue.tag, "w", queue.settings, blamed=True)

    def recover_buries(self, queue):
        queue.start(max_attempts=1)
        return recover(queue.tag, "w", queue.settings, blamed=True)

    def _dead(self, queue) -> str:
        job = queue.start(max_attempts=1)
        queue.advance(job, 0, 3)
        queue.lapse(job.job_id)
        ((entry_id, _),) = queue.redis.xrange(queue.tag.dead)
        return entry_id.decode()

    def requeue_dead(self, queue):
        return requeue_dead(queue.tag, self._dead(queue))

    def requeue_dead_from_scratch(self, queue):
        return requeue_dead(queue.tag, self._dead(queue), from_scratch=True)

    def drop_dead(self, queue):
        return drop_dead(queue.tag, self._dead(queue))

    def heartbeat(self, queue):
        return heartbeat(queue.tag, "w", {"model": "m"})

    def drain(self, queue):
        queue.call(heartbeat(queue.tag, "w", {"model": "m"}))
        return drain(queue.tag, "w", 10)

    def pause(self, queue):
        return pause(queue.tag, tenant="t")

    def resume(self, queue):
        queue.add(tenant="t")
        queue.call(pause(queue.tag, tenant="t"))
        queue.claim()
        return resume(queue.tag, tenant="t")

    def _accept(self, queue) -> Call:
        queue.finish(queue.start(webhook=HOOK))
        redis, outbox = queue.redis, queue.tag.outbox
        redis.xgroup_create(outbox, keys.RELAY_GROUP, "0")
        redis.xreadgroup(keys.RELAY_GROUP, "relay", {outbox: ">"})
        entry_id = redis.xrange(outbox)[-1][0].decode()
        about = {"job_id": JOB_ID, "event": "job.succeeded", "tenant": "t", "body": "{}", "secret": ""}
        return accept_delivery(queue.tag, entry_id, **about, url=HOOK["url"], retention_s=600)

    def accept_delivery(self, queue):
        return self._accept(queue)

    def accept_delivery_for_a_disabled_endpoint(self, queue):
        call = self._accept(queue)
        endpoint = queue.tag.endpoint(endpoint_id("t", HOOK["url"]))
        queue.redis.hset(endpoint, "disabled_ms", 1)
        queue.redis.pexpire(endpoint, 600_000)
        return call

    def claim_deliveries(self, queue):
        queue.call(self._accept(queue))
        return claim_deliveries(queue.tag, 5, 30, "n")

    def _taken(self, queue) -> DueDelivery:
        ((taken,), _) = queue.call(self.claim_deliveries(queue))
        return taken

    def settle_delivery(self, queue):
        return settle_delivery(self._taken(queue), DeliveryState.DELIVERED, DeliveryAttempt(), 600)

    def settle_delivery_that_failed(self, queue):
        return settle_delivery(self._taken(queue), DeliveryState.PENDING, DeliveryAttempt(), 600, delay_s=5)

    def replay_delivery(self, queue):
        due = self._taken(queue)
        queue.call(settle_delivery(due, DeliveryState.FAILED, DeliveryAttempt(), 600))
        return replay_delivery(queue.tag, due.id)

    def claim_batch(self, queue):
        batches = keys.BatchKeys()
        queue.redis.hset(batches.batch("t", "b"), "asked", "{}")
        queue.redis.pexpire(batches.batch("t", "b"), 600_000)
        queue.redis.zadd(batches.active, {"t:b": 0})
        return claim_batch(batches, "h", 60)

    def advance_batch(self, queue):
        queue.call(self.claim_batch(queue))
        part = BatchPart("0-h", "1-3", completed=2, failed=1, input_tokens=5, output_tokens=6)
        return advance_batch(
            keys.BatchKeys(), "t", "b", "h", 60, 600, part=part, fields={"status": "in_progress"}
        )

    def advance_batch_to_its_end(self, queue):
        queue.call(self.advance_batch(queue))
        return advance_batch(keys.BatchKeys(), "t", "b", "h", 60, 600, leaves=True)

    def end_batch(self, queue):
        queue.call(self.claim_batch(queue))
        hook = {"event": "batch.completed", "at_s": 1, "url": HOOK["url"], "secret": "", "delivery_s": 600}
        return end_batch(keys.BatchKeys(), "t", "b", "h", 60, 600, {"status": "completed"}, **hook)


SCENARIOS = [name for name in vars(Scenarios) if not name.startswith("_")]


COUNTS = re.compile(
    r"(bell|(pace|rate|served|ahead|queued_bytes|delayed_bytes|running|held|trial|capacity|endpoint|due|endpoints|sending)(:.+)?)"
)
"""What only paces or counts: a try that was interrupted may count twice, or not at all."""


class Keyspace:
    """All keys as they are now, to be brought back; and what a job's fate depends on, to be compared."""

    def __init__(self, queue) -> None:
        self._redis, self._tag = queue.redis, queue.tag
        self._dumped = {
            key: (self._redis.dump(key), max(0, self._redis.pttl(key))) for key in self._redis.scan_iter()
        }

    def restore(self) -> None:
        self._redis.flushall()
        for key, (value, ttl_ms) in self._dumped.items():
            self._redis.restore(key, ttl_ms, value)

    def seen(self) -> dict[str, Any]:
        names = {key.decode().removeprefix(f"{self._tag.base}:"): key for key in self._redis.scan_iter()}
        found = {name: self._value(name, key) for name, key in names.items() if not COUNTS.fullmatch(name)}
        tenants = {
            tenant for name in found if name.startswith(("backlog:", "parked")) for tenant in found[name]
        }
        found = {name: value for name, value in found.items() if not name.startswith(("backlog:", "parked"))}
        return {name: value for name, value in found.items() if value} | {"tenants that wait": tenants}

    def _value(self, name: str, key: bytes) -> Any:
        redis, lasting = self._redis, self._redis.ttl(key) == -1
        match redis.type(key):
            case b"hash":
                return lasting, self._fields(plain(redis.hgetall(key)))
            case b"set":
                return [lane.rpartition(b":")[2] for lane in redis.smembers(key)]
            case b"zset" if name.startswith("backlog:"):
                return redis.zrange(key, 0, -1)
            case b"zset":
                members = redis.zrange(key, 0, -1, withscores=True)
                return [
                    (member, plain(score)) for member, score in members if not self._forgotten(name, member)
                ]
            case b"stream":
                return self._entries(key, name)
            case kind:
                assert kind == b"string", (key, kind)
                return plain(redis.get(key))

    def _forgotten(self, name: str, member: bytes) -> bool:
        """Whether upkeep takes it out: the job is not there for what this index is for."""
        states = {
            "jobs": {b"delayed", b"queued", b"running", *map(str.encode, TERMINAL)},
            "leases": {b"running"},
            "delayed": {b"delayed"},
            "deadlines": {b"delayed", b"queued", b"running"},
        }
        return (
            name in states and self._redis.hget(self._tag.job(member.decode()), "state") not in states[name]
        )

    def _fields(self, fields: dict[str, str]) -> dict[str, str]:
        """Without what a job that does not run, or has ended, does not need."""
        for count in ("epoch", "charged", "effects", "expires_ms", "restarts"):
            fields.pop(count, None)
        if "fence" in fields:
            fields["fence"] = fields["fence"].partition(".")[2]
        unused = {"queued": {"fence", "worker"}, "running": {"stream", "entry"}}
        unused |= {state: {"stream", "entry", "fence", "cancel", "suspect"} for state in TERMINAL}
        state = fields.get("state", "")
        return {name: value for name, value in fields.items() if value and name not in unused.get(state, ())}

    def _entries(self, key: bytes, name: str) -> Any:
        entries = [(entry_id, plain(fields)) for entry_id, fields in self._redis.xrange(key)]
        if name.startswith("out:"):
            return entries
        if name.startswith(("lane:", "retry:", "suspects:")):  # those count that a queued job's record names
            return [fields for entry_id, fields in entries if self._is_at(fields.get("job"), entry_id)]
        return sorted(
            {json.dumps(fields, sort_keys=True) for _, fields in entries}
        )  # twice tells nothing more

    def _is_at(self, job_id: str | None, entry_id: bytes) -> bool:
        state, entry = self._redis.hmget(self._tag.job(job_id or ""), "state", "entry")
        return (state, entry) == (b"queued", entry_id)


def plain(value: Any) -> Any:
    """As text, without moments."""
    match value:
        case bytes():
            return MOMENT.sub("T", value.decode())
        case float():
            return MOMENT.sub("T", f"{value:.0f}")
        case dict():
            return {name.decode(): plain(item) for name, item in value.items()}
    return value


def interrupted(call: Call, at: int) -> Call:
    """The call, with its script failing at its call number `at`."""
    return replace(call, script=replace(call.script, source=FAULTY % at + call.script.source))


def fails(queue, call: Call, at: int) -> bool:
    """Run it interrupted; False where it has fewer calls."""
    try:
        queue.redis.execute_command(*interrupted(call, at).by_source)
    except ResponseError as error:
        if "interrupted" not in str(error):
            raise
        return True
    return False


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_script_that_failed_anywhere_is_completed_by_sending_it_again(queue, name):
    call = getattr(Scenarios(), name)(queue)
    before = Keyspace(queue)
    queue.call(call)
    wanted = before.seen()
    wrong, at = {}, 0
    while True:
        before.restore()
        at += 1
        if not fails(queue, call, at):
            break
        queue.call(call)
        if (seen := before.seen()) != wanted:
            keys_ = seen.keys() | wanted.keys()
            wrong[at] = {
                key: (seen.get(key), wanted.get(key)) for key in keys_ if seen.get(key) != wanted.get(key)
            }
    assert at > 2
    assert wrong == {}
