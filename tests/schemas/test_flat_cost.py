"""What a script costs does not follow what tenants and the fleet can make large: a call looks at so much."""

import pytest

from headrace.schemas.scripts import accept_delivery, recover
from headrace.schemas.settings.queue import Limits, QueueSettings

pytestmark = pytest.mark.leaves_jobs

MANY = 300
"""Above the looks of any call, so that none gets through all of it."""

MOST_COMMANDS = 6_000
"""That one call gives Redis, some 5 ms, whatever lies in its way."""


@pytest.fixture
def commands(redis):
    """How many commands a script gives Redis, and what it answers."""

    def counted(call):
        redis.config_resetstat()
        answer = call()
        stats = redis.info("commandstats")
        ours = ("config", "info", "eval")
        spent = sum(stat["calls"] for name, stat in stats.items() if not any(one in name for one in ours))
        return spent, answer

    return counted


def expired_heads(queue, redis):
    queue.fill(MANY, deadline_s=100)
    for job_id in redis.zrange(queue.tag.deadlines, 0, -1):
        redis.hset(queue.tag.job(job_id.decode()), "deadline_ms", 1)


def cancelled_heads_of_many_tenants(queue, redis):
    for number in range(MANY):
        queue.cancel(queue.add(tenant=f"t{number}"))


def broken_heads(queue, redis):
    queue.fill(MANY)
    for key in redis.scan_iter(match=queue.tag.job("*"), count=1000):
        redis.delete(key)


def tenants_at_their_limit(queue, redis):
    redis.hset(queue.tag.tenants, "*", '{"max_running":1}')
    for number in range(MANY):
        queue.add(tenant=f"t{number}")
    for _ in range(10):
        queue.claim()
    for number in range(MANY):
        queue.add(tenant=f"t{number}")


@pytest.mark.parametrize(
    "way", [expired_heads, cancelled_heads_of_many_tenants, broken_heads, tenants_at_their_limit]
)
def test_a_claim_looks_at_so_many_heads_and_says_that_there_is_more(queue, redis, commands, way):
    way(queue, redis)
    fine = queue.add(tenant="zz", job_class="batch")
    redis.delete(queue.tag.bell)
    redis.lpush(queue.tag.bell, 1)
    spent, reply = commands(queue.claim)
    assert spent < MOST_COMMANDS
    assert (reply.jobs, reply.more, redis.exists(queue.tag.bell)) == ([], True, 1)
    for _ in range(MANY):
        reply = queue.claim()
        if not reply.more:
            break
    assert [job.job_id for job in reply.jobs] == [fine]


def test_heads_for_other_workers_are_no_reason_to_look_again_at_once(queue):
    for number in range(MANY):
        queue.add(tenant=f"t{number}", v=1000)
    assert not queue.claim().more


def test_a_tenants_many_running_jobs_cost_a_claim_nothing(queue, redis, commands):
    redis.hset(queue.tag.tenants, "*", f'{{"max_running":{MANY}}}')
    queue.fill(MANY + 1)
    assert len(queue.claimed()) == MANY
    queue.cancel(queue.add(tenant="other"))
    queue.upkeep()
    spent, _ = commands(queue.claim)
    assert spent < 200


def test_jobs_that_can_not_be_held_are_handed_out_a_few_a_claim(queue):
    mine = [queue.add(prompt_token_ids=[1] * 500) for _ in range(5)]
    replies = [queue.claim(capacity_tokens=256) for _ in range(3)]
    assert [[job.job_id for job in reply.jobs] for reply in replies] == [mine[:2], mine[2:4], mine[4:]]
    assert [reply.more for reply in replies] == [True, True, False]


def test_upkeep_forgets_workers_and_letters_a_bounded_number_at_a_time(queue, redis, commands):
    redis.zadd(queue.tag.workers, {f"w{number}": 1 for number in range(MANY)})
    for number in range(MANY):
        redis.xadd(queue.tag.dead, {"job": "old"}, id=f"{number + 1}-0")
    spent, reply = commands(queue.upkeep)
    assert (spent < MOST_COMMANDS, reply.workers) == (True, 100)
    assert redis.xlen(queue.tag.dead) == MANY - 100
    queue.upkeep(), queue.upkeep()
    assert not redis.exists(queue.tag.workers)
    assert redis.xlen(queue.tag.dead) == 0


def test_a_new_delivery_makes_room_for_a_bounded_number_of_old_ones(queue, redis):
    redis.zadd(queue.tag.deliveries, {f"d{number}": 1 for number in range(MANY)})
    for number in range(3):
        entry = redis.xadd(queue.tag.outbox, {"job": "j", "event": "job.succeeded", "at_ms": 1}).decode()
        fields = {"event": "e", "tenant": "t", "url": "https://example.com", "body": "{}", "secret": ""}
        call = accept_delivery(queue.tag, entry, job_id="j", retention_s=60, **fields)
        queue.call(call)
        assert redis.zcard(queue.tag.deliveries) == max(MANY - 100 * (number + 1), 0) + number + 1


def others_running_jobs(queue, redis, count: int) -> None:
    redis.zadd(queue.tag.leases, {f"other-{number}": 2e12 for number in range(count)})


def test_a_dead_workers_jobs_and_a_lost_claims_are_found_whatever_runs_elsewhere(queue, redis, commands):
    costs = []
    for others in (10, 100_000):
        others_running_jobs(queue, redis, others)
        queue.fill(5)
        assert len(queue.claim(suspect_slots=0).jobs) == 5
        resync, reply = commands(lambda: queue.claim(resync=True))
        assert len(reply.jobs) == 5
        recovery, taken = commands(lambda: queue.recover("w", blamed=False))
        assert taken == 5
        costs.append((resync, recovery))
        for job in queue.claim(suspect_slots=0).jobs:
            queue.finish(job)
    assert costs[0] == costs[1]


def test_recovery_looks_at_a_bounded_number_of_jobs_a_call(queue, redis, commands):
    queue.fill(MANY)
    assert len(queue.claim().jobs) == MANY
    spent, taken = commands(lambda: queue.call(recover(queue.tag, "w", queue.settings, blamed=True)))
    assert (taken.jobs, taken.left > 0, spent < MOST_COMMANDS) == (100, True, True)


@pytest.mark.parametrize("by", ["claim", "upkeep"])
def test_a_long_log_is_put_together_alone_in_its_call(queue, redis, by):
    queue.fill(3, deadline_s=100)
    for job in queue.claim().jobs:
        queue.release(queue_advanced(queue, job), 1, 1)
        queue.make_due(job.job_id, queue.tag.deadlines)
        redis.hset(queue.tag.job(job.job_id), "offset", 8_000)
    if by == "upkeep":
        assert [queue.upkeep().expired for _ in range(4)] == [1, 1, 1, 0]
    else:
        assert [queue.claim().more for _ in range(4)] == [True, True, True, False]


@pytest.mark.parametrize(("count", "size"), [(5, 3 * 2**20), (40, 20_000)], ids=["large", "many"])
def test_a_claims_reply_does_not_grow_with_the_records_of_its_jobs(queue, count, size):
    tool = {"name": "f", "description": "x" * size}
    chat = {"messages": [{"role": "user", "content": "hi"}], "tools": [tool]}
    jobs = {queue.add(**chat) for _ in range(count)} | {queue.add(tenant="other")}
    for resync in (False, True):
        reply = queue.claim(resync=resync)
        assert ({job.job_id for job in reply.jobs}, reply.more) == (jobs, False)
        assert sum(len(job.spec or b"") for job in reply.jobs) <= 2**17
        assert all(job.spec is None or len(job.spec) == job.spec_bytes for job in reply.jobs)
        assert sum(job.spec_bytes for job in reply.jobs) > count * size


def test_a_small_record_comes_with_its_claim_whatever_came_before_it(queue):
    queue.settings = QueueSettings(limits=Limits(max_job_bytes=2**24))
    queue.add(
        messages=[{"role": "user", "content": "hi"}], tools=[{"name": "f", "description": "x" * 9 * 2**20}]
    )
    queue.add(tenant="other")
    assert [job.spec is None for job in queue.claim().jobs] == [True, False]


@pytest.mark.parametrize("by", ["recover", "upkeep"])
def test_a_long_log_of_a_dead_workers_job_is_put_together_alone_in_its_call(queue, redis, by):
    queue.fill(3)
    for job in queue.claim().jobs:
        queue.cancel(queue_advanced(queue, job).job_id)
        redis.hset(queue.tag.job(job.job_id), "offset", 8_000)
        redis.zadd(queue.tag.leases, {job.job_id: 1})
    left = []
    for _ in range(3):
        if by == "recover":
            queue.call(recover(queue.tag, "w", queue.settings, blamed=True))
        else:
            queue.upkeep()
        left.append(redis.zcard(queue.tag.leases))
    assert left == [2, 1, 0]


def queue_advanced(queue, job):
    """The job with a token in its log."""
    queue.advance(job, 0, 1)
    return job


def test_a_result_put_together_from_a_log_is_what_was_written(queue):
    job = queue.start()
    pieces = ['"', "\\", "é\n", '","token_ids":[7],"', "\u2028", "😀"]
    for number, piece in enumerate(pieces):
        queue.advance(job, 2 * number, 2 * number + 2, text=piece)
    end = 2 * len(pieces)
    queue.release(job, end, end)
    queue.cancel(job.job_id)
    result = queue.record(job.job_id).result()
    assert (result.text, list(result.token_ids)) == ("".join(pieces), list(range(end)))
    assert result.usage.completion_tokens == end
