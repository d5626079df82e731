"""What time does, a bounded piece at a time, and the list of workers."""

import pytest

from headrace.schemas.scripts import forget_worker, heartbeat
from headrace.schemas.scripts.upkeep import ITEMS_A_CALL

pytestmark = pytest.mark.leaves_jobs


@pytest.mark.parametrize("kind", ["promoted", "expired", "recovered"])
def test_one_call_deals_with_a_bounded_number_and_the_next_with_the_rest(queue, redis, kind):
    fields = {"promoted": {"delay_s": 100}, "expired": {"deadline_s": 100}, "recovered": {}}[kind]
    index = {
        "promoted": queue.tag.delayed,
        "expired": queue.tag.deadlines,
        "recovered": queue.tag.leases,
    }[kind]
    queue.fill(ITEMS_A_CALL + 7, **fields)
    if kind == "recovered":
        queue.claim()
    redis.zadd(index, dict.fromkeys(redis.zrange(index, 0, -1), 1))
    counts = [getattr(queue.upkeep(), kind) for _ in range(3)]
    assert counts == [ITEMS_A_CALL, 7, 0]


def test_a_silent_worker_is_forgotten_and_one_that_beats_stays(queue, redis):
    queue.call(heartbeat(queue.tag, "alive", {"model": "m"}))
    redis.zadd(queue.tag.workers, {"silent": 1})
    assert queue.upkeep().workers == 1
    assert redis.zrange(queue.tag.workers, 0, -1) == [b"alive"]
    assert 0 < redis.pttl(queue.tag.worker("alive")) <= 60_000


def test_a_worker_that_leaves_is_off_the_list_at_once(queue, redis):
    for worker in ("leaves", "dies"):
        queue.call(heartbeat(queue.tag, worker, {"model": "m"}))
    forget_worker(redis, queue.tag, "leaves")
    queue.recover("dies", blamed=False)
    assert not redis.exists(queue.tag.workers, queue.tag.worker("leaves"), queue.tag.worker("dies"))


def test_dead_letters_go_by_age_only(queue, redis):
    redis.xadd(queue.tag.dead, {"job": "old"}, id="1-0")
    for _ in range(3):
        job = queue.start(max_attempts=1)
        queue.lapse(job.job_id)
    assert redis.xlen(queue.tag.dead) == 3
    assert redis.ttl(queue.tag.job(job.job_id)) > queue.settings.retention_s


def test_upkeep_of_an_idle_queue_leaves_nothing_behind_but_its_pulse(queue, redis):
    assert queue.upkeep() == (0, 0, 0, 0, 0, 0, 0)
    assert redis.keys() == [queue.tag.pulse.encode()]


def test_when_all_were_silent_leases_are_spared_until_everybody_could_speak(queue, redis):
    """Redis was away: nobody could renew, and nobody is dead for that."""
    queue.upkeep()
    job = queue.start()
    redis.hset(queue.tag.pulse, "at", 1)
    assert queue.lapse(job.job_id).recovered == 0
    assert queue.upkeep().recovered == 0
    redis.hset(queue.tag.pulse, "spare_until", 1)
    assert queue.upkeep().recovered == 1
    assert queue.record(job.job_id).fields["attempts"] == "1"


def test_a_job_expires_when_it_has_run_for_as_long_as_it_may(queue, redis):
    job = queue.start(max_runtime_s=50, deadline_s=100)
    record = queue.record(job.job_id)
    assert int(record.fields["deadline_ms"]) - int(record.fields["started_ms"]) == 50_000
    queue.make_due(job.job_id, queue.tag.deadlines)
    assert queue.advance(job, 0, 1).status == "expired"
    queue.release(job, 1, 1)
    assert queue.upkeep().expired == 1


def test_waiting_does_not_count_as_running(queue):
    job_id = queue.add(max_runtime_s=50)
    assert "deadline_ms" not in queue.record(job_id).fields
    (job,) = queue.claim().jobs
    deadline = queue.record(job_id).fields["deadline_ms"]
    queue.release(job, 0, 1)
    queue.claim()
    assert queue.record(job_id).fields["deadline_ms"] == deadline
