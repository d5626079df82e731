"""A job that fits nowhere yet: one worker makes room for it, and nobody else waits."""

import pytest

from headrace.schemas.job import JobClass

pytestmark = pytest.mark.leaves_jobs

ROOM = {"room_tokens": {JobClass.STANDARD: 5000}}


def test_one_worker_waits_for_a_head_that_does_not_fit_and_the_others_pass_it(queue):
    large, small = queue.add(max_tokens=1000), queue.add()
    blocked = queue.claim(budget=500, worker="one")
    assert (blocked.jobs, blocked.blocked_class) == ([], "standard")
    assert queue.claimed(budget=500, worker="two") == [small]
    later = queue.add()
    assert queue.claimed(budget=500, worker="one") == []
    assert queue.claimed(budget=5000, worker="one") == [large, later]


def test_any_worker_that_has_the_room_takes_a_job_that_is_held(queue):
    large = queue.add(max_tokens=1000)
    queue.claim(budget=500, worker="one")
    assert queue.claimed(budget=5000, worker="two") == [large]
    assert queue.claim(budget=500, worker="one").blocked_class is None


def test_a_job_that_nobody_renews_is_held_by_the_next_who_comes(queue, redis):
    large = queue.add(max_tokens=1000)
    queue.claim(budget=500, worker="dead")
    held = redis.hget(queue.tag.job(large), "held").decode()
    redis.hset(queue.tag.job(large), "held", held.replace(held.split()[1], "1"))
    assert queue.claim(budget=500, worker="two").blocked_tokens > 500
    assert redis.hget(queue.tag.job(large), "held").decode().startswith("two ")


def test_each_worker_waits_for_one_job_and_the_oldest_first(queue):
    first, second = queue.add(max_tokens=1000), queue.add(max_tokens=1000)
    assert queue.claim(budget=500, worker="one").blocked_class == "standard"
    assert queue.claim(budget=500, worker="one").blocked_class == "standard"
    assert queue.claim(budget=500, worker="two").blocked_class == "standard"
    assert queue.claimed(budget=1500, worker="three") == [first]
    assert queue.claimed(budget=1500, worker="two") == [second]


def test_small_jobs_run_however_many_large_ones_others_make_room_for(queue):
    large = [queue.add(max_tokens=1000, tenant=f"t{number}") for number in range(80)]
    claims = [queue.claim(budget=500, worker=f"w{number}") for number in range(80)]
    waiting = [claim for claim in claims if claim.blocked_class]
    assert len(waiting) >= 32
    small = queue.add(tenant="quiet")
    assert small in [job_id for _ in range(20) for job_id in queue.claimed(budget=500, worker="free")]
    taken = [job_id for _ in range(80) for job_id in queue.claimed(budget=1500, worker="free")]
    assert sorted(taken) == sorted(large)


def test_a_worker_whose_less_urgent_jobs_can_give_way_makes_the_room_itself(queue):
    job_id = queue.add(max_tokens=1000)
    queue.claim(budget=500, worker="one")
    assert queue.claim(budget=500, worker="two", **ROOM).blocked_class == "standard"
    assert queue.claim(budget=500, worker="three", **ROOM).blocked_class is None  # one is enough
    assert queue.claim(budget=500, worker="one").blocked_class is None
    assert queue.claimed(budget=5000, worker="two") == [job_id]


def test_a_more_urgent_head_is_waited_for_instead(queue):
    queue.add(max_tokens=1000, job_class="batch")
    assert queue.claim(budget=500).blocked_class == "batch"
    urgent = queue.add(max_tokens=1000, job_class="interactive")
    assert queue.claim(budget=500).blocked_class == "interactive"
    assert queue.claimed(budget=1500)[0] == urgent


@pytest.mark.parametrize("end", ["cancelled", "expired"])
def test_a_held_job_ends_as_any_that_waits(queue, redis, end):
    job_id = queue.add(max_tokens=1000, deadline_s=100)
    queue.claim(budget=500, worker="one")
    if end == "cancelled":
        assert queue.cancel(job_id) == "cancelled"
    else:
        queue.make_due(job_id, queue.tag.deadlines)
        assert queue.upkeep().expired == 1
    assert queue.state(job_id) == end
    assert queue.claim(budget=500, worker="one").blocked_class is None
    assert not redis.exists(queue.tag.retry("standard"), queue.tag.backlog("standard"))


def test_a_held_job_counts_as_one_that_runs_for_its_tenants_limit(queue, redis):
    redis.hset(queue.tag.tenants, "few", '{"max_running":1}')
    large, small = queue.add(tenant="few", max_tokens=1000), queue.add(tenant="few")
    queue.claim(budget=500, worker="one")
    assert queue.claimed(budget=500, worker="two") == []
    assert queue.upkeep().queued == 2
    assert queue.claimed(budget=500, worker="two") == []
    queue.cancel(large)
    assert queue.claimed(budget=500, worker="two") == [small]


def test_a_held_job_is_charged_once(queue, redis):
    large = queue.add(max_tokens=992)
    queue.add()
    queue.claim(budget=500, worker="one")
    assert redis.zscore(queue.tag.backlog("standard"), "default") == 16 + 256
    assert queue.claimed(budget=1024, slots=1, worker="one") == [large]
    assert redis.zscore(queue.tag.backlog("standard"), "default") == 16 + 256
