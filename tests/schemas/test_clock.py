"""Redis's clock was an hour ahead for a while: no moment of that time is believed beyond what is usual."""

import hashlib
from dataclasses import replace

import pytest

from headrace import RateLimited
from headrace.schemas.job import JobClass
from headrace.schemas.scripts import heartbeat, run, trial, upkeep

from .conftest import Queue

pytestmark = pytest.mark.leaves_jobs

HOUR_MS = 3_600_000
LEASE_MS = 10_000


class AnHourAhead(Queue):
    """The same queue while the clock is wrong."""

    def call(self, call):
        known = call.script
        source = known.source.replace("return t[1] * 1000", f"return {HOUR_MS} + t[1] * 1000")
        assert source != known.source
        script = replace(
            known, source=source, sha=hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()
        )
        return run(self.redis, replace(call, script=script))


@pytest.fixture
def ahead(queue) -> Queue:
    return AnHourAhead(queue.redis)


@pytest.fixture
def now_ms(redis):
    def now() -> float:
        seconds, micros = redis.time()
        return seconds * 1000 + micros / 1000

    return now


def test_leases_from_that_time_lapse_about_a_lease_after_it(queue, ahead, redis, now_ms):
    queue.upkeep()
    job = queue.start()
    assert ahead.upkeep().recovered == 0
    ahead.advance(job, 0, 1, lease_ms=LEASE_MS)
    assert redis.zscore(queue.tag.leases, job.job_id) > now_ms() + HOUR_MS / 2
    assert queue.upkeep().recovered == 0
    assert redis.zscore(queue.tag.leases, job.job_id) <= now_ms() + LEASE_MS
    assert queue.lapse(job.job_id).recovered == 1  # a lease later


def test_leases_are_spared_no_longer_than_a_lease(queue, ahead, redis):
    queue.upkeep()
    job = queue.start()
    assert ahead.upkeep().recovered == 0
    assert float(redis.hget(queue.tag.pulse, "spare_until")) > 0
    assert queue.lapse(job.job_id).recovered == 1


@pytest.mark.parametrize("hours", [1, 1000])
def test_so_much_is_set_back_a_call_and_the_rest_with_the_next(queue, redis, now_ms, hours):
    queue.upkeep()
    queue.fill(107)
    queue.claim()
    late = now_ms() + hours * HOUR_MS
    redis.zadd(queue.tag.leases, dict.fromkeys(redis.zrange(queue.tag.leases, 0, -1), late))
    for left in (7, 0):
        queue.upkeep()
        assert redis.zcount(queue.tag.leases, now_ms() + LEASE_MS, "+inf") == left


def test_a_worker_with_a_longer_lease_than_others_keeps_it(queue, redis, now_ms):
    queue.call(upkeep(queue.tag, queue.settings, 600_000))
    job = queue.start()
    queue.advance(job, 0, 1, lease_ms=600_000)
    assert queue.upkeep().recovered == 0
    assert redis.zscore(queue.tag.leases, job.job_id) > now_ms() + 300_000
    redis.hset(queue.tag.pulse, "lease_at", round(now_ms()) - 1_300_000)  # nobody has it any more
    queue.upkeep()
    assert redis.zscore(queue.tag.leases, job.job_id) <= now_ms() + LEASE_MS


def test_a_worker_heard_of_then_is_forgotten_as_any_other(queue, ahead, redis, now_ms):
    ahead.call(heartbeat(queue.tag, "silent", {"model": "m"}))
    queue.upkeep()
    assert redis.zscore(queue.tag.workers, "silent") <= now_ms()
    redis.zincrby(queue.tag.workers, -61_000, "silent")
    assert queue.upkeep().workers == 1


def test_a_rate_is_owed_no_longer_than_it_would_be_otherwise(queue, ahead, redis):
    redis.hset(queue.tag.tenants, "*", '{"requests_per_minute":1,"tokens_per_minute":1000}')
    ahead.add()
    with pytest.raises(RateLimited) as limited:
        queue.add()
    assert 0 < limited.value.retry_after_s <= 60


def test_an_endpoint_is_left_alone_no_longer_than_the_longest_pause(queue, redis, now_ms):
    from headrace.schemas.scripts import accept_delivery, claim_deliveries

    entry = redis.xadd(queue.tag.outbox, {"job": "j", "event": "job.succeeded", "at_ms": 1}).decode()
    given = {"event": "e", "tenant": "t", "url": "https://example.com", "body": "{}", "secret": ""}
    queue.call(accept_delivery(queue.tag, entry, job_id="j", retention_s=60, **given))
    (endpoint,) = [key.decode().rpartition(":")[2] for key in redis.scan_iter(match="*:waiting:*")]
    for at, due in ((60_000, 0), (HOUR_MS, 1)):
        fields = {"failures": 5, "open_until_ms": round(now_ms()) + at}
        redis.hset(queue.tag.endpoint(endpoint), mapping=fields)
        redis.pexpire(queue.tag.endpoint(endpoint), 60_000)
        for kind in ("due", "endpoints"):
            for key in redis.scan_iter(match=f"*:{kind}:*"):
                redis.zadd(key, dict.fromkeys(redis.zrange(key, 0, -1), 1))
        assert len(queue.call(claim_deliveries(queue.tag, 1, 60, "n")).due) == due


def test_times_between_moments_are_never_negative(queue, ahead, redis):
    ahead.finish(ahead.start(tenant="other"))
    job_id = ahead.add()
    (job,) = queue.claim().jobs
    assert job.waited_ms == 0
    queue.finish(job, 0, 1)
    timings = queue.record(job_id).result().timings
    assert (timings.queued_s, timings.first_token_s, timings.total_s) == (0, 0, 0)
    assert float(redis.hget(queue.tag.pace("standard"), "mean")) >= 0


def test_who_was_asked_to_try_suspects_then_keeps_nobody_from_it(queue, ahead, redis):
    job_id = queue.add()
    queue.claim(worker="dead")
    queue.recover("dead", blamed=True)

    def asked(where: Queue, worker: str) -> bool:
        return where.call(trial(queue.tag, worker, LEASE_MS, tuple(JobClass)))

    assert asked(ahead, "then")
    redis.persist(queue.tag.trial)  # as Redis's own clock would have it
    stream, entry = (queue.record(job_id).fields[name] for name in ("stream", "entry"))
    ((_, values),) = redis.xrange(stream, entry, entry)
    redis.delete(stream)
    redis.xadd(stream, values, id="1-0")
    redis.xgroup_create(stream, "workers", "0")
    assert asked(queue, "now")
    assert not asked(queue, "another")


def test_jobs_that_came_then_wait_for_their_own_moments(queue, ahead, redis, now_ms):
    fields = {"delay_s": 5, "deadline_s": 100}
    then = [ahead.add(**fields) for _ in range(103)]
    usual = queue.add(delay_s=5000, deadline_s=10_000)
    ahead.upkeep()
    for _ in range(3):
        assert queue.upkeep().expired == 0
    for job_id in then:
        assert redis.zscore(queue.tag.delayed, job_id) <= now_ms() + 5000
        deadline_ms = redis.zscore(queue.tag.deadlines, job_id)
        assert deadline_ms <= now_ms() + 100_000
        assert int(queue.record(job_id).fields["deadline_ms"]) == deadline_ms
    assert redis.zscore(queue.tag.delayed, usual) > now_ms() + 4_000_000
    assert redis.zscore(queue.tag.deadlines, usual) > now_ms() + 9_000_000
    assert not redis.hexists(queue.tag.pulse, "delayed")


def test_a_job_that_started_then_may_run_for_as_long_as_any(queue, ahead, redis, now_ms):
    queue.upkeep()
    job_id = queue.add(max_runtime_s=50, deadline_s=10_000)
    ahead.claim()
    ahead.upkeep()
    queue.upkeep()
    deadline_ms = redis.zscore(queue.tag.deadlines, job_id)
    assert now_ms() < deadline_ms <= now_ms() + 50_000
    assert int(queue.record(job_id).fields["deadline_ms"]) == deadline_ms
