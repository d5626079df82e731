"""What a tenant's policy lets it enqueue."""

import pytest

from headrace import QueueFull, RateLimited
from headrace.schemas.settings.queue import Limits, QueueSettings

pytestmark = pytest.mark.leaves_jobs


@pytest.fixture
def policy(queue, redis):
    """Set the policy of all tenants."""

    def set_policy(text: str, tenant: str = "*") -> None:
        redis.hset(queue.tag.tenants, tenant, text)

    return set_policy


def pass_time(queue, redis, seconds: float, tenant: str = "default") -> None:
    """Make what the tenant has used that much older."""
    for name, at in redis.hgetall(queue.tag.rate(tenant)).items():
        redis.hset(queue.tag.rate(tenant), name, int(float(at) - 1000 * seconds))


def test_a_tenant_sends_a_minutes_requests_at_once_and_then_one_at_a_time(queue, redis, policy):
    policy('{"requests_per_minute":6}')
    for _ in range(6):
        queue.add()
    with pytest.raises(
        RateLimited, match="tenant 'default' is over its rate of 6 requests a minute of m"
    ) as over:
        queue.add()
    assert 9 < over.value.retry_after_s <= 10
    assert over.value.http_status == 429
    pass_time(queue, redis, over.value.retry_after_s)
    queue.add()
    with pytest.raises(RateLimited):
        queue.add()
    queue.add(tenant="another")


def test_tokens_are_counted_as_prompt_and_most_output(queue, redis, policy):
    policy('{"tokens_per_minute":100}')
    for _ in range(3):
        queue.add()
    with pytest.raises(RateLimited, match="100 tokens a minute") as over:
        queue.add()
    assert 16 < over.value.retry_after_s <= 17
    assert redis.ttl(queue.tag.rate("default")) > 0


def test_a_job_larger_than_the_rate_goes_through_when_nothing_is_owed_and_is_paid_for(queue, redis, policy):
    policy('{"tokens_per_minute":100}')
    queue.add(max_tokens=484)
    with pytest.raises(RateLimited) as over:
        queue.add()
    assert 240 < over.value.retry_after_s <= 300
    pass_time(queue, redis, over.value.retry_after_s)
    queue.add()


def test_a_refused_or_repeated_job_uses_nothing_up(queue, redis, policy):
    policy('{"requests_per_minute":2,"max_queued_jobs":1}')
    job_id = queue.add()
    assert queue.add(job_id) == job_id
    with pytest.raises(QueueFull):
        queue.add()
    queue.claim()
    queue.add()


def test_a_tenants_queue_is_bounded_over_all_its_classes(queue, policy):
    policy('{"max_queued_jobs":3}', "small")
    for job_class in ("interactive", "standard", "batch"):
        queue.add(tenant="small", job_class=job_class)
    with pytest.raises(QueueFull) as full:
        queue.add(tenant="small")
    assert (full.value.depth, full.value.retry_after_s > 0) == (3, True)
    queue.add(tenant="other")


def test_a_tenants_bytes_are_bounded_over_all_its_classes(queue, policy):
    policy('{"max_queued_bytes":400}')
    queue.add(prompt="x" * 250, job_class="batch")
    with pytest.raises(QueueFull):
        queue.add(prompt="x" * 250)
    queue.add(prompt="x" * 20)


def test_a_delay_passes_no_limit(queue, policy):
    policy('{"max_queued_jobs":5}')
    for _ in range(5):
        queue.add(delay_s=0.001)
    for sizes in ({"delay_s": 0.001}, {"delay_s": 100}, {}):
        with pytest.raises(QueueFull) as full:
            queue.add(**sizes)
        assert full.value.depth == 5


def test_bytes_of_delayed_jobs_count(queue, redis, policy):
    policy('{"max_queued_bytes":400}')
    job_id = queue.add(prompt="x" * 250, delay_s=100)
    with pytest.raises(QueueFull):
        queue.add(prompt="x" * 250, delay_s=100, job_class="batch")
    queue.cancel(job_id)
    assert not redis.exists(queue.tag.delayed_bytes, queue.tag.delayed_jobs("standard", "default"))
    queue.add(prompt="x" * 250)


def test_delayed_jobs_of_one_tenant_refuse_nobody_elses(queue):
    queue.settings = QueueSettings(limits=Limits(max_queued_jobs=3))
    for _ in range(3):
        queue.add(delay_s=100, tenant="one")
    with pytest.raises(QueueFull):
        queue.add(delay_s=100, tenant="one")
    queue.add(delay_s=100, tenant="other")
    queue.add(delay_s=100, tenant="one", job_class="batch")


def test_no_more_is_promoted_than_was_accepted(queue, redis, policy):
    policy('{"max_queued_jobs":4}')
    delayed = [queue.add(delay_s=100) for _ in range(2)]
    queue.add(), queue.add()
    for job_id in delayed:
        queue.make_due(job_id, queue.tag.delayed)
    assert queue.upkeep().promoted == 2
    assert not redis.exists(queue.tag.delayed_bytes, queue.tag.delayed_jobs("standard", "default"))
    with pytest.raises(QueueFull) as full:
        queue.add()
    assert full.value.depth == 4
    assert len(queue.claimed()) == 4


def test_what_older_workers_promoted_counts_once(queue, redis, policy):
    policy('{"max_queued_jobs":2}')
    job_id = queue.add(delay_s=100)
    redis.zadd(queue.tag.delayed_jobs("standard", "default"), {"long-gone": 1})
    queue.add()
    assert queue.cancel(job_id) == "cancelled"
    queue.add()


def test_a_policy_that_is_no_policy_limits_nothing(queue, policy):
    policy("nonsense")
    assert queue.claimed() == []
    queue.add()
    assert len(queue.claimed()) == 1
