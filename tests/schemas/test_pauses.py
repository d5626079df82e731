"""What an operator has paused is not started; what has left its lane goes on."""

import pytest

from headrace.schemas.errors import BadSetting
from headrace.schemas.scripts import heartbeat, pause, resume

pytestmark = pytest.mark.leaves_jobs


def test_a_paused_queue_starts_nothing_and_goes_on_in_order_when_resumed(queue, redis):
    jobs = [queue.add(job_class=job_class) for job_class in ("interactive", "standard", "batch")]
    queue.call(pause(queue.tag))
    assert (queue.claimed(), redis.exists(queue.tag.bell)) == ([], 0)
    (
        queue.call(heartbeat(queue.tag, "w", {"model": "m"})),
        queue.call(heartbeat(queue.tag, "x", {"model": "m"})),
    )
    assert queue.call(resume(queue.tag))
    assert redis.llen(queue.tag.bell) == 2, "each worker is woken"
    assert queue.claimed() == jobs
    assert not redis.exists(queue.tag.paused)


def test_a_class_a_tenant_and_a_tenants_class_are_paused_alone(queue):
    def added():
        pairs = [("standard", "t"), ("batch", "t"), ("standard", "u"), ("batch", "u")]
        return {
            queue.add(job_class=job_class, tenant=tenant): (job_class, tenant) for job_class, tenant in pairs
        }

    for job_class, tenant, held in (
        ("batch", "*", {("batch", "t"), ("batch", "u")}),
        ("*", "t", {("standard", "t"), ("batch", "t")}),
        ("standard", "u", {("standard", "u")}),
    ):
        jobs = added()
        queue.call(pause(queue.tag, job_class, tenant))
        assert {jobs[each] for each in queue.claimed()} == set(jobs.values()) - held
        queue.add(job_class="standard", tenant="v")
        queue.upkeep()
        assert len(queue.claimed()) == 1, "what is paused blocks nobody"
        assert queue.call(resume(queue.tag, job_class, tenant))
        assert {jobs[each] for each in queue.claimed()} == held


def test_a_job_that_has_begun_goes_on_in_a_paused_queue(queue):
    job = queue.start()
    queue.call(pause(queue.tag))
    queue.release(job, 0, 3)
    assert queue.claimed() == [job.job_id]


def test_a_pause_that_is_over_or_never_was_is_resumed_to_no_effect(queue):
    assert not queue.call(resume(queue.tag))
    queue.call(pause(queue.tag, "batch"))
    assert not queue.call(resume(queue.tag)), "it ends exactly the pause that it names"


def test_pauses_of_one_queue_are_a_bounded_number(queue, redis):
    redis.hset(queue.tag.paused, mapping={f"*:t{number}": 1 for number in range(1000)})
    queue.call(pause(queue.tag, "*", "t1"))
    with pytest.raises(BadSetting, match="1,000 parts"):
        queue.call(pause(queue.tag, "*", "other"))


def test_a_paused_tenants_claims_cost_no_more_for_its_many_jobs(queue, redis):
    queue.fill(300, tenant="t")
    queue.call(pause(queue.tag, "*", "t"))
    redis.config_resetstat()
    assert queue.claimed() == []
    spent = sum(stat["calls"] for stat in redis.info("commandstats").values())
    assert spent < 50
