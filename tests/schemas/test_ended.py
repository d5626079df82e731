"""Who ends a job that no worker has is told which, to tell it in a log."""

import pytest

from headrace.schemas.scripts import Ended, ModelChange, recover, upkeep

pytestmark = pytest.mark.leaves_jobs


def told(ended: list[Ended]) -> list[tuple[object, ...]]:
    assert all(0 <= job.age_s < 600 for job in ended)
    return [(job.job_id, job.state, job.code, job.tenant, job.attempts, job.output_tokens) for job in ended]


def test_upkeep_tells_of_jobs_whose_deadline_has_passed(queue):
    job_id = queue.add(deadline_s=100, delay_s=100, tenant="acme")
    queue.add(deadline_s=100)
    queue.make_due(job_id, queue.tag.deadlines)
    ended = queue.call(upkeep(queue.tag, queue.settings)).ended
    assert told(ended) == [(job_id, "expired", "", "acme", 0, 0)]
    assert queue.call(upkeep(queue.tag, queue.settings)).ended == []


def test_upkeep_tells_of_jobs_over_which_workers_died_and_of_those_cancelled_meanwhile(queue, redis):
    crashed, cancelled = queue.start(max_attempts=1), queue.start()
    queue.advance(crashed, 0, 5)
    redis.zrem(queue.tag.held("w"), cancelled.job_id)
    queue.cancel(cancelled.job_id)
    redis.zadd(queue.tag.leases, {crashed.job_id: 1, cancelled.job_id: 2})
    ended = queue.call(upkeep(queue.tag, queue.settings)).ended
    assert told(ended) == [
        (crashed.job_id, "failed", "crashed", "default", 1, 5),
        (cancelled.job_id, "cancelled", "", "default", 0, 0),
    ]
    assert ended[0].worker == "w"


def test_upkeep_tells_of_jobs_whose_model_is_gone(queue, redis):
    queue.add()
    (job,) = queue.claim(fingerprint="ab12").jobs
    queue.advance(job, 0, 3)
    queue.release(job, 3, 3)
    redis.zadd(queue.tag.readers, dict.fromkeys(redis.zrange(queue.tag.readers, 0, -1), 1))
    ended = queue.call(upkeep(queue.tag, queue.settings, model_change=ModelChange("fail"))).ended
    assert told(ended) == [(job.job_id, "failed", "model_changed", "default", 0, 3)]


def test_a_claim_and_a_recovery_tell_of_what_they_end(queue, redis):
    late = queue.add(deadline_s=100)
    queue.make_due(late, queue.tag.deadlines)
    assert told(queue.claim().ended) == [(late, "expired", "", "default", 0, 0)]
    job = queue.start(max_attempts=1)
    taken = queue.call(recover(queue.tag, "w", queue.settings, blamed=True))
    assert told(taken.ended) == [(job.job_id, "failed", "crashed", "default", 1, 0)]


def test_a_damaged_record_spoils_no_line(queue, redis):
    job_id = queue.add(deadline_s=100)
    redis.hset(queue.tag.job(job_id), mapping={"attempts": "many", "enqueued_ms": "x", "offset": b"\xff"})
    queue.make_due(job_id, queue.tag.deadlines)
    assert told(queue.call(upkeep(queue.tag, queue.settings)).ended) == [
        (job_id, "expired", "", "default", 0, 0)
    ]
