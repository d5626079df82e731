"""What a worker gets: what fits, in order, fairly, and nothing that is broken."""

import pytest

from headrace.schemas.job import SCHEMA_VERSION, JobClass

pytestmark = pytest.mark.leaves_jobs


@pytest.mark.parametrize(
    ("budget", "count"), [(31, 0), (32, 1), (63, 1), (64, 2), (95, 2), (96, 3), (1000, 3)]
)
def test_a_claim_stops_exactly_at_the_page_budget(queue, budget, count):
    """Each job is 16 + 16 tokens: two pages."""
    for _ in range(3):
        queue.add()
    assert len(queue.claimed(budget=budget)) == count


@pytest.mark.parametrize(("max_tokens", "cost"), [(1, 32), (16, 32), (17, 48)])
def test_costs_are_whole_pages(queue, max_tokens, cost):
    queue.add(max_tokens=max_tokens)
    reply = queue.claim(budget=cost - 1)
    assert (reply.jobs, reply.blocked_class, reply.blocked_tokens) == ([], "standard", cost)
    assert len(queue.claimed(budget=cost)) == 1


def test_expected_output_and_bytes_shape_the_cost(queue):
    queue.add(prompt="x" * 100, max_tokens=100)
    assert queue.claim(budget=1, output_ratio=0.5, tokens_per_byte=0.25).blocked_tokens == 80


def test_slots_bound_a_claim(queue):
    for _ in range(3):
        queue.add()
    assert len(queue.claimed(slots=2)) == 2
    assert queue.claim(slots=0).blocked_class == "standard"


def test_nothing_overtakes_a_head_that_does_not_fit(queue):
    large = queue.add(max_tokens=1000)
    queue.add()
    queue.add(job_class="batch")
    assert queue.claimed(budget=500) == []
    assert queue.claimed(budget=5000)[0] == large


def test_a_prompt_beyond_the_workers_capacity_is_handed_out_at_no_cost(queue):
    queue.add(prompt_token_ids=[1] * 500)
    assert len(queue.claimed(budget=0, capacity_tokens=256)) == 1


def test_classes_are_served_in_order_and_after_what_was_interrupted(queue):
    retried = queue.start()
    queue.release(retried)
    batch, standard, interactive = (
        queue.add(job_class=name) for name in ("batch", "standard", "interactive")
    )
    assert queue.claimed() == [interactive, retried.job_id, standard, batch]


def test_one_suspect_in_all_is_handed_out_whatever_its_class(queue):
    for name in JobClass:
        queue.add(job_class=name)
    queue.claim()
    queue.recover("w", blamed=True)
    assert len(queue.claimed()) == 1


def test_progress_is_output_that_need_not_be_made_again(queue):
    job = queue.start()
    queue.release(job, 0, 10)
    assert queue.claim(budget=1).blocked_tokens == 32


def test_no_job_costs_more_than_a_worker_can_hold(queue):
    queue.add(max_tokens=1000)
    assert queue.claim(budget=1, capacity_tokens=64).blocked_tokens == 64


def test_a_worker_serves_only_its_classes(queue):
    queue.add(job_class="interactive")
    batch = queue.add(job_class="batch")
    assert queue.claimed(classes=(JobClass.BATCH,)) == [batch]


def test_tenants_share_by_tokens_served_whatever_their_load(queue):
    for _ in range(50):
        queue.add(tenant="noisy")
    for _ in range(5):
        queue.add(tenant="quiet")
    tenants = [queue.record(job_id).fields["tenant"] for job_id in queue.claimed(slots=10)]
    assert tenants.count("quiet") == 5


def test_a_tenant_of_twice_the_weight_gets_twice_the_tokens(queue, redis):
    redis.hset(queue.tag.tenants, mapping={"heavy": '{"weight":2}', "*": '{"weight":1}'})
    for tenant in ("heavy", "light") * 30:
        queue.add(tenant=tenant)
    tenants = [queue.record(job_id).fields["tenant"] for job_id in queue.claimed(slots=30)]
    assert tenants.count("heavy") == 20


def test_a_tenant_runs_no_more_jobs_than_it_may_and_holds_nobody_up(queue, redis):
    redis.hset(queue.tag.tenants, "few", '{"max_running":2}')
    mine = [queue.add(tenant="few") for _ in range(5)]
    others = [queue.add(tenant="many") for _ in range(5)]
    reply = queue.claim()
    assert reply.blocked_class is None
    running = {job.job_id: job for job in reply.jobs}
    assert set(running) == {*mine[:2], *others}
    assert queue.claimed() == []
    queue.finish(running[mine[0]])
    assert queue.claimed() == [mine[2]]
    queue.release(running[mine[1]])
    assert queue.claimed() == [mine[1], mine[3]][:1]
    queue.cancel(mine[3])
    queue.recover("w", blamed=False)
    assert set(queue.claimed()) == {*mine[1:3], *others}


def test_a_tenants_raised_limit_frees_its_jobs_at_the_next_upkeep(queue, redis):
    redis.hset(queue.tag.tenants, "few", '{"max_running":1}')
    first, second = queue.add(tenant="few"), queue.add(tenant="few")
    assert queue.claimed() == [first]
    assert queue.claimed() == []
    redis.hdel(queue.tag.tenants, "few")
    assert queue.upkeep().queued == 1
    assert queue.claimed() == [second]


def test_a_running_job_that_vanished_does_not_count_against_its_tenant(queue, redis):
    redis.hset(queue.tag.tenants, "few", '{"max_running":1}')
    gone, next_one = queue.start(tenant="few"), queue.add(tenant="few")
    redis.delete(queue.tag.job(gone.job_id))
    assert queue.advance(gone, 0, 1).status == "gone"
    assert queue.claimed() == [next_one]


def test_a_tenant_that_is_ahead_stays_so_though_its_lane_was_empty(queue):
    queue.add(tenant="ahead", max_tokens=1000)
    queue.claimed()
    for tenant in ("ahead", "behind"):
        for _ in range(5):
            queue.add(tenant=tenant)
    tenants = [queue.record(job_id).fields["tenant"] for job_id in queue.claimed(slots=6)]
    assert tenants == ["behind"] * 5 + ["ahead"]


def test_a_tenant_that_was_away_gets_no_burst(queue):
    for _ in range(20):
        queue.add(tenant="steady")
    queue.claimed(slots=10)
    for _ in range(10):
        queue.add(tenant="returning")
    tenants = [queue.record(job_id).fields["tenant"] for job_id in queue.claimed(slots=8)]
    assert 3 <= tenants.count("returning") <= 5


def test_an_expired_head_is_finished_on_the_way(queue):
    late, fine = queue.add(deadline_s=100), queue.add()
    queue.make_due(late, queue.tag.deadlines)
    assert queue.claimed() == [fine]
    assert queue.state(late) == "expired"


def test_broken_entries_are_buried_and_the_jobs_behind_them_run(queue, redis):
    lane = queue.tag.lane("standard", "default")
    missing, fine = queue.add(), queue.add()
    redis.delete(queue.tag.job(missing))
    redis.xadd(lane, {"nonsense": 1})
    last = queue.add()
    assert queue.claimed() == [fine, last]
    causes = [fields[b"cause"] for _, fields in redis.xrange(queue.tag.dead)]
    assert causes == [b"job record missing", b"malformed entry"]


def test_an_entry_written_twice_runs_once(queue, redis):
    job_id = queue.add()
    ((_, fields),) = redis.xrange(queue.tag.lane("standard", "default"))
    redis.xadd(queue.tag.lane("standard", "default"), fields)
    assert queue.claimed() == [job_id]


def test_an_entry_that_its_job_has_left_starts_nothing(queue, redis):
    lane = queue.tag.lane("standard", "default")
    job_id = queue.add()
    ((_, stale),) = redis.xrange(lane)
    queue.claimed()
    queue.recover("w", blamed=True)
    queue.add()
    redis.xadd(lane, stale)
    assert job_id not in queue.claimed(suspect_slots=0)
    assert queue.state(job_id) == "queued"
    assert queue.claimed() == [job_id]


def test_a_job_of_a_newer_schema_is_left_for_a_newer_worker(queue):
    job_id = queue.add(v=SCHEMA_VERSION + 1)
    assert queue.claimed() == []
    assert queue.claimed(max_v=SCHEMA_VERSION + 1) == [job_id]


def test_a_job_of_a_newer_schema_holds_up_only_what_is_behind_it_in_its_lane(queue):
    newer = queue.add(v=SCHEMA_VERSION + 1, tenant="ahead")
    behind, other, later = queue.add(tenant="ahead"), queue.add(tenant="other"), queue.add(job_class="batch")
    reply = queue.claim()
    assert ([job.job_id for job in reply.jobs], reply.blocked_class) == ([other, later], None)
    assert queue.claimed(max_v=SCHEMA_VERSION + 1) == [newer, behind]


def test_a_worker_that_lost_the_reply_to_its_claim_gets_its_jobs_again(queue):
    first, second, third = queue.add(), queue.add(), queue.add()
    lost = queue.claim(slots=2)
    again = queue.claim(slots=2, resync=True)
    assert {job.job_id: job.fence for job in again.jobs} == {job.job_id: job.fence for job in lost.jobs}
    assert queue.claim(resync=True, nonce="another").jobs == []
    assert queue.claim(resync=True, worker="another").jobs == []
    assert {job.job_id for job in again.jobs} == {first, second}
    assert queue.claimed() == [third]


def test_a_lost_reply_is_repeated_with_what_is_larger_than_its_worker(queue):
    job_id = queue.add(max_tokens=5000)
    sizes = {"capacity_tokens": 4096, "context_tokens": 8192}
    (lost,) = queue.claim(**sizes).jobs
    (again,) = queue.claim(resync=True, **sizes).jobs
    assert (again.job_id, again.fence, again.cost_tokens) == (job_id, lost.fence, lost.cost_tokens)


def test_claiming_costs_the_same_however_long_the_queue_is(queue, redis):
    def calls_of_a_claim() -> int:
        redis.config_resetstat()
        assert len(queue.claimed(slots=1)) == 1
        stats = redis.info("commandstats")
        return sum(
            stat["calls"] for name, stat in stats.items() if "config" not in name and "info" not in name
        )

    queue.fill(100)
    calls_of_a_claim()
    short = calls_of_a_claim()
    queue.fill(9_900)
    assert calls_of_a_claim() == short


def test_a_queued_short_job_takes_little_memory(queue, redis):
    queue.fill(1)
    before = redis.info("memory")["used_memory"]
    queue.fill(2000)
    each = (redis.info("memory")["used_memory"] - before) / 2000
    print(f"Redis memory of a queued short job: {each:.0f} bytes")
    assert each <= 2048
