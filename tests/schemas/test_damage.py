"""Keys changed from outside: the job that they belong to still ends, and nobody else's suffers."""

import pytest

from headrace import JobNotFound
from headrace.schemas.events import End, parse_event
from headrace.schemas.scripts import AdvanceStatus, advance, requeue_dead

pytestmark = pytest.mark.leaves_jobs

DAMAGE = {
    "another type": lambda redis, out: redis.set(out, "not a stream"),
    "an entry that is no JSON": lambda redis, out: redis.xadd(out, {"event": "junk"}, id="5-5"),
    "an entry without an event": lambda redis, out: redis.xadd(out, {"other": 1}, id="5-5"),
    "an event of another shape": lambda redis, out: redis.xadd(out, {"event": '{"text":{}}'}, id="5-5"),
    "no log": lambda redis, out: redis.delete(out),
}


@pytest.fixture(params=DAMAGE)
def damage(request, redis, queue):
    """Damages the token log of a job that has written 5 tokens."""
    return lambda job_id: DAMAGE[request.param](redis, queue.tag.out(job_id))


def started(queue, **fields):
    job = queue.start(**fields)
    queue.advance(job, 0, 5)
    return job


def test_a_waiting_job_with_a_damaged_log_can_be_cancelled(queue, redis, damage):
    job = started(queue)
    queue.release(job, 5, 5)
    damage(job.job_id)
    assert queue.cancel(job.job_id) == "cancelled"
    assert queue.record(job.job_id).result().finish_reason == "cancelled"
    assert redis.ttl(queue.tag.job(job.job_id)) > 0


def test_a_waiting_job_with_a_damaged_log_expires_and_so_do_its_neighbours(queue, damage):
    job = started(queue, deadline_s=100)
    queue.release(job, 5, 5)
    neighbour = queue.add(deadline_s=100)
    damage(job.job_id)
    for job_id in (job.job_id, neighbour):
        queue.make_due(job_id, queue.tag.deadlines)
    assert queue.upkeep().expired == 2
    assert {queue.state(job.job_id), queue.state(neighbour)} == {"expired"}


def test_a_running_job_with_a_damaged_log_reaches_the_dead_letters(queue, damage):
    job = started(queue, max_attempts=1)
    damage(job.job_id)
    assert queue.lapse(job.job_id).dead == 1
    assert queue.state(job.job_id) == "failed"


def test_a_claim_hands_over_a_job_with_a_damaged_log_and_its_neighbours(queue, damage):
    job = started(queue)
    queue.release(job, 5, 5)
    neighbour = queue.add()
    damage(job.job_id)
    broken, fine = queue.claim().jobs
    assert (broken.job_id, fine.job_id) == (job.job_id, neighbour)
    assert broken.offset == 5
    assert queue.finish(broken, 0, 0, state="failed").status is AdvanceStatus.OK
    assert queue.state(job.job_id) == "failed"


def test_a_job_ends_with_its_last_tokens_though_the_log_refuses_them(queue, redis):
    job = started(queue)
    redis.set(queue.tag.out(job.job_id), "not a stream")
    assert queue.advance(job, 5, 6).status is AdvanceStatus.DAMAGED
    with redis.pubsub(ignore_subscribe_messages=True) as pubsub:
        pubsub.subscribe(queue.tag.chan(job.job_id))
        pubsub.get_message(timeout=5)
        assert queue.finish(job, 5, 6).status is AdvanceStatus.OK
        while (message := pubsub.get_message(timeout=5)) is None:
            pass
    assert isinstance(parse_event(message["data"]), End)
    assert queue.record(job.job_id).result().token_ids == tuple(range(6))


def test_a_release_of_a_damaged_log_says_so_and_the_lease_decides(queue, redis):
    job = started(queue)
    redis.set(queue.tag.out(job.job_id), "not a stream")
    assert queue.release(job, 5, 6).status is AdvanceStatus.DAMAGED
    assert queue.lapse(job.job_id).recovered == 1


def test_a_record_that_is_no_hash_is_buried(queue, redis):
    broken, fine = queue.add(), queue.add()
    redis.set(queue.tag.job(broken), "not a hash")
    assert queue.claimed() == [fine]
    ((_, letter),) = redis.xrange(queue.tag.dead)
    assert (letter[b"job"].decode(), letter[b"cause"]) == (broken, b"job record missing")
    redis.delete(queue.tag.job(broken))


def test_a_record_that_is_no_hash_is_gone_for_its_worker_and_for_everybody(queue, redis):
    queue.add(), queue.add()
    broken, fine = queue.claim().jobs
    redis.set(queue.tag.job(broken.job_id), "not a hash")
    segments = [queue.segment(broken, 0, 1), queue.segment(fine, 0, 1)]
    answers = queue.call(advance(queue.tag, 60_000, segments))
    assert [answer.status for answer in answers] == ["gone", "ok"]
    assert queue.finish(broken, 0, 1).status == queue.release(broken, 0, 1).status == "gone"
    with pytest.raises(JobNotFound):
        queue.cancel(broken.job_id)
    redis.zadd(queue.tag.leases, {broken.job_id: 1})
    assert queue.recover("w", blamed=False) == 1
    assert queue.upkeep().recovered == 0
    assert not redis.exists(queue.tag.leases)
    redis.delete(queue.tag.job(broken.job_id), queue.tag.lane("standard", "default"))


def test_a_field_that_is_no_number_is_damage_of_that_job_alone(queue, redis):
    queue.add(), queue.add()
    broken, fine = queue.claim().jobs
    redis.hset(queue.tag.job(broken.job_id), "offset", "x")
    segments = [queue.segment(broken, 0, 1), queue.segment(fine, 0, 1)]
    answers = queue.call(advance(queue.tag, 60_000, segments))
    assert [answer.status for answer in answers] == ["damaged", "ok"]
    assert queue.finish(broken, 0, 1, state="failed").status == "ok"
    assert queue.state(broken.job_id) == "failed"


def test_an_empty_spec_holds_up_nobody_behind_it(queue, redis):
    broken, fine = queue.add(), queue.add()
    redis.hset(queue.tag.job(broken), "spec", "")
    assert queue.claimed() == [broken, fine]


def test_a_dead_letter_whose_log_is_lost_starts_from_scratch(queue, redis):
    job = started(queue, max_attempts=1)
    queue.lapse(job.job_id)
    redis.set(queue.tag.out(job.job_id), "not a stream")
    ((entry_id, _),) = redis.xrange(queue.tag.dead)
    queue.call(requeue_dead(queue.tag, entry_id.decode()))
    (back,) = queue.claim().jobs
    assert back.offset == 0
    assert queue.finish(back, 0, 3).status is AdvanceStatus.OK
    assert queue.log(job.job_id) == ["3-0", "3-1"]
