"""Workers of one model with unequal memory: what one can't hold is another's, and nobody waits for it."""

import pytest

from headrace.schemas.scripts import forget_worker, heartbeat

pytestmark = pytest.mark.leaves_jobs

SMALL = {"worker": "small", "capacity_tokens": 320, "context_tokens": 8192, "budget": 320}
LARGE = {"worker": "large", "capacity_tokens": 6400, "context_tokens": 8192, "budget": 6400}


@pytest.fixture
def fleet(queue):
    """A small and a large worker that live."""

    def beat(*, small: str = "interactive,standard,batch", large: str = "interactive,standard,batch"):
        for shape, classes in ((SMALL, small), (LARGE, large)):
            facts = {"capacity_tokens": shape["capacity_tokens"], "classes": classes}
            queue.call(heartbeat(queue.tag, shape["worker"], facts))

    beat()
    return beat


@pytest.mark.parametrize("sizes", [{"prompt_token_ids": [1] * 500}, {"max_tokens": 1000}])
def test_what_a_larger_worker_can_hold_is_left_to_it(queue, fleet, sizes):
    large, small = queue.add(**sizes), queue.add(tenant="other")
    assert queue.claimed(**SMALL) == [small]
    assert queue.claimed(**LARGE) == [large]


def test_what_is_behind_a_job_for_a_larger_worker_in_its_lane_does_not_wait_for_it(queue, fleet):
    large, small = queue.add(max_tokens=1000), queue.add()
    assert queue.claimed(**SMALL) == [small]
    assert queue.claimed(**LARGE) == [large]


def test_many_jobs_for_a_larger_worker_keep_their_tenants_turn(queue, fleet):
    large = [queue.add(max_tokens=1000, tenant="large") for _ in range(40)]
    assert queue.claimed(**SMALL) == []
    small = queue.add(tenant="other")
    assert queue.claimed(**SMALL) == [small]
    assert queue.upkeep().queued == 40
    taken = []
    while len(taken) < 40:
        taken += queue.claimed(**LARGE)
    assert taken == large


def test_a_small_worker_reaches_its_jobs_behind_any_number_of_tenants_with_large_ones(queue, fleet):
    for number in range(100):
        queue.add(max_tokens=1000, tenant=f"t{number}")
    small = queue.add(tenant="zz")
    claims = [queue.claimed(**SMALL) for _ in range(200)]
    assert [small] in claims


def test_the_largest_that_lives_takes_what_nobody_can_hold_whole(queue, fleet):
    long = queue.add(max_tokens=7000)
    assert queue.claimed(**SMALL) == []
    assert queue.claimed(**LARGE) == [long]


def test_a_prompt_beyond_the_models_context_is_taken_by_anybody_to_be_refused(queue, fleet):
    job_id = queue.add(prompt_token_ids=[1] * 8192)
    assert queue.claimed(**SMALL) == [job_id]


@pytest.mark.parametrize("end", ["leaves", "dies", "falls silent"])
def test_when_the_larger_worker_is_gone_the_largest_left_takes_its_jobs(queue, redis, fleet, end):
    job_id = queue.add(max_tokens=1000)
    assert queue.claimed(**SMALL) == []
    if end == "leaves":
        forget_worker(redis, queue.tag, "large")
    elif end == "dies":
        queue.recover("large", blamed=False)
    else:
        redis.zadd(queue.tag.workers, {"large": 1})
        queue.upkeep()
    assert queue.claimed(**SMALL) == [job_id]
    capacities = redis.zrange(queue.tag.capacity("standard"), 0, -1)
    assert capacities == [b"small"]


def test_a_larger_worker_that_does_not_serve_the_class_is_not_waited_for(queue, fleet):
    fleet(large="interactive")
    job_id = queue.add(max_tokens=1000)
    assert queue.claimed(**SMALL) == [job_id]


def test_a_larger_worker_that_claims_no_more_is_not_waited_for(queue, fleet):
    job_id = queue.add(max_tokens=1000)
    queue.call(heartbeat(queue.tag, "large", {"model": "m"}))
    assert queue.claimed(**SMALL) == [job_id]


def test_a_larger_worker_that_nobody_has_on_the_list_is_not_waited_for(queue, redis):
    redis.zadd(queue.tag.capacity("standard"), {f"ghost{number}": 9000 for number in range(20)})
    job_id = queue.add(max_tokens=1000)
    assert queue.claimed(**SMALL) == [job_id]
    assert not redis.exists(queue.tag.capacity("standard"))


def test_the_bell_reaches_a_larger_worker_though_it_woke_a_smaller_one(queue, redis, fleet):
    queue.add(max_tokens=1000)
    redis.delete(queue.tag.bell)
    assert queue.claimed(**SMALL) == []
    assert redis.llen(queue.tag.bell) > 0
    redis.delete(queue.tag.bell)
    for _ in range(5):
        queue.claimed(**SMALL)
    assert redis.llen(queue.tag.bell) < 2  # once for each worker, not for ever


def test_the_claims_reply_says_whether_the_prompt_is_counted(queue):
    queue.add(prompt="some text")
    (job,) = queue.claim().jobs
    assert job.prompt_tokens == 0
    queue.release(job, prompt_tokens=3)
    (job,) = queue.claim().jobs
    assert job.prompt_tokens == 3
