"""Urgent jobs go first; the ones that give way lose nothing but time."""

import pytest

from ..support.waiting import wait_until
from .conftest import assert_whole, leaked_keys

pytestmark = [pytest.mark.serial, pytest.mark.timeout(120)]

LONG = {
    "prompt": "A generator is",
    "model": "demo",
    "max_tokens": 180,
    "ignore_eos": True,
    "job_class": "batch",
}


@pytest.mark.parametrize(
    "room",
    [{"max_batch_size": 2}, {"num_pages": 16, "max_context_tokens": 224}],
    ids=["slots", "pages"],
)
def test_an_interactive_job_takes_the_place_of_a_batch_job_which_resumes_token_exact(
    redis_url, redis, start_worker, expected_tokens, room
):
    worker = start_worker(redis_url, options=room, step_s=0.01)
    fields = [{**LONG, "seed": seed} for seed in (1, 2)]
    long_jobs = [worker.client.enqueue(**each) for each in fields]
    wait_until(lambda: all(job.status().offset > 60 for job in long_jobs))
    urgent = worker.client.enqueue("def add(", model="demo", max_tokens=120, job_class="interactive", seed=3)
    urgent.result(timeout_s=30)
    assert worker.events("preempted")
    for job, each in zip(long_jobs, fields, strict=True):
        assert job.result(timeout_s=60).attempts == 0
        assert assert_whole(redis, job) == expected_tokens(**each)
    assert leaked_keys(redis) == []


def test_nothing_gives_way_to_a_job_of_its_own_class_or_a_lower_one(redis_url, redis, start_worker):
    worker = start_worker(redis_url, options={"max_batch_size": 1}, step_s=0.01)
    standard = worker.client.enqueue(**{**LONG, "job_class": "standard"})
    wait_until(lambda: standard.status().offset > 20)
    others = [
        worker.client.enqueue("x", model="demo", max_tokens=4, job_class=name)
        for name in ("batch", "standard")
    ]
    standard.result(timeout_s=60)
    for job in others:
        job.result(timeout_s=30)
    assert worker.events("preempted") == []
