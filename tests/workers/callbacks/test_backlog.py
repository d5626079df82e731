"""What waits is a metric of callbacks, for there may be no worker to tell of it."""

import pytest
from celery import Celery
from prometheus_client import CollectorRegistry
from redis import Redis

from headrace.producers.celery.message import celery_part
from headrace.schemas.job import JobClass
from headrace.schemas.scripts import ClaimRequest, claim, run
from headrace.workers.callbacks.backlog import look

from ...support.waiting import wait_until
from .conftest import TAG, Jobs


def test_what_waits_is_counted_by_class_and_what_runs_is_not(redis: Redis, jobs: Jobs) -> None:
    for number in range(3):
        jobs.enqueue(job_class="interactive", tenant=f"t{number}")
    jobs.enqueue(job_class="batch")
    jobs.enqueue(delay_s=60)
    run(redis, claim(TAG, ClaimRequest("w", "n", 60_000, 10**6, 1)))
    found = look(redis, [TAG])["demo"]
    assert dict(found.jobs) == {JobClass.INTERACTIVE: 2, JobClass.BATCH: 1}
    assert (found.delayed, found.outbox, found.dead) == (1, 0, 0)
    assert 0 <= found.oldest_s[JobClass.BATCH] < 60
    assert found.oldest_s[JobClass.STANDARD] == 0
    jobs.redis.delete(*redis.keys())


def test_the_age_is_that_of_the_oldest_that_waits(redis: Redis, jobs: Jobs) -> None:
    jobs.enqueue()
    lane = TAG.lane("standard", "default")
    seconds, _ = redis.time()
    redis.xadd(TAG.outbox, {"job": "x"}, id=f"{1000 * (seconds - 300)}-0")
    [(_, fields)] = redis.xrange(lane)
    redis.delete(lane)
    redis.xadd(lane, fields, id=f"{1000 * (seconds - 90)}-0")
    redis.xgroup_create(lane, "workers", "0")
    found = look(redis, [TAG])["demo"]
    assert found.oldest_s[JobClass.STANDARD] == pytest.approx(90, abs=5)
    assert found.outbox_s == pytest.approx(300, abs=5)
    redis.delete(*redis.keys())


@pytest.mark.leaves_jobs
def test_callbacks_export_what_waits(jobs: Jobs, start_service) -> None:
    registry = CollectorRegistry()
    jobs.ended(celery=celery_part({"id": "t"}, {}, {}, "team"))
    jobs.enqueue(job_class="batch")
    start_service(Celery("other", broker="memory://", set_as_current=False), registry=registry)
    value = registry.get_sample_value
    wait_until(lambda: value("headrace_queue_jobs", {"model": "demo", "class": "batch"}) == 1)
    assert value("headrace_queue_jobs", {"model": "demo", "class": "interactive"}) == 0
    assert value("headrace_outbox_depth", {"model": "demo"}) >= 1
    assert value("headrace_dead_letters", {"model": "demo"}) == 0
    [build] = [
        sample for metric in registry.collect() for sample in metric.samples if "build_info" in sample.name
    ]
    assert (build.value, set(build.labels)) == (1, {"version", "python"})
