"""What can't be run says why, alone; nothing else is lost."""

import pytest

from headrace import BrokerUnavailable, InvalidJob, JobFailed, UnknownModel
from headrace.schemas.keys import Tag, tag_of
from headrace.schemas.redis.connection import connect

from ..support.waiting import wait_until
from .conftest import assert_whole

pytestmark = [pytest.mark.serial, pytest.mark.timeout(300)]

GOOD = {"prompt": "A tuple is", "model": "demo", "max_tokens": 12, "ignore_eos": True}


@pytest.fixture
def worker(redis_url, start_worker):
    return start_worker(redis_url)


def test_each_bad_request_is_refused_by_name_and_good_ones_go_on(worker, redis):
    client = worker.client
    refused = [
        ({"prompt": ""}, "prompt"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": -5}, "max_tokens"),
        ({"temperature": float("nan")}, "temperature"),
        ({"prompt": "x" * 10_000_000}, "job"),
    ]
    for change, field in refused:
        with pytest.raises(InvalidJob) as error:
            client.enqueue(**{**GOOD, **change})
        assert error.value.field == field
    with pytest.raises(TypeError, match="colour"):
        client.enqueue(**GOOD, colour="red")
    with pytest.raises(UnknownModel, match="no-such-model"):
        client.enqueue("hello", model="no-such-model")

    too_long = client.enqueue(prompt_token_ids=[5] * 5000, model="demo")
    bad_token = client.enqueue(prompt_token_ids=[5, 999_999], model="demo")
    bad_role = client.enqueue(messages=[{"role": "observation", "content": "hi"}], model="demo")
    good = client.enqueue(**GOOD)
    for job, reason, words in (
        (too_long, "context_length", "5000 tokens"),
        (bad_token, "invalid_job", "prompt_token_ids: token id 999999 "),
        (bad_role, "template_error", "observation"),
    ):
        with pytest.raises(JobFailed, match=words) as failed:
            job.result(timeout_s=30)
        assert failed.value.reason == reason
    assert len(good.result(timeout_s=30).token_ids) == 12


def test_a_malformed_entry_is_buried_and_the_jobs_behind_it_run(worker, redis):
    tag = Tag("demo")
    first = worker.client.enqueue(**GOOD)
    first.result(timeout_s=30)
    redis.xadd(tag.retry("standard"), {"nonsense": "1"})
    redis.xadd(
        tag.retry("standard"),
        {"job": "nobody", "prompt_tokens": "1", "prompt_bytes": 0, "max_tokens": 1, "v": 1},
    )
    behind = worker.client.enqueue(**GOOD)
    assert len(behind.result(timeout_s=30).token_ids) == 12
    causes = [fields[b"cause"] for _, fields in redis.xrange(tag.dead)]
    assert causes == [b"malformed entry", b"job record missing"]


def test_a_job_whose_record_is_deleted_while_it_runs_is_dropped_and_the_others_go_on(worker, redis):
    doomed = worker.client.enqueue(**{**GOOD, "max_tokens": 1500})
    next(iter(doomed.stream()))
    other = worker.client.enqueue(**{**GOOD, "max_tokens": 200})
    redis.delete(tag_of(doomed.id).job(doomed.id))
    assert len(other.result(timeout_s=60).token_ids) == 200
    wait_until(lambda: worker.events("job_lost"))
    wait_until(lambda: all(w.running == 0 for w in worker.client.workers()))
    assert_whole(redis, other)
    redis.delete(tag_of(doomed.id).out(doomed.id), Tag("demo").lane("standard", "default"))


def test_a_full_redis_refuses_new_jobs_while_running_ones_finish(own_redis, start_worker):
    worker = start_worker(own_redis.url)
    running = worker.client.enqueue(**{**GOOD, "max_tokens": 400})
    next(iter(running.stream()))
    with connect(own_redis.url) as redis:
        redis.config_set("maxmemory", "1mb")
        with pytest.raises(BrokerUnavailable, match="memory"):
            worker.client.enqueue(**GOOD)
        assert len(running.result(timeout_s=60).token_ids) == 400
        redis.config_set("maxmemory", "0")
        assert len(worker.client.enqueue(**GOOD).result(timeout_s=30).token_ids) == 12
        assert_whole(redis, running)


def test_a_model_that_can_not_be_loaded_ends_the_worker_with_the_reason(redis_url, start_worker):
    worker = start_worker(redis_url, options={"model": "/no/such/folder", "served_name": "m"}, ready=False)
    assert worker.process.wait(timeout=90) == 1
    (event,) = worker.events("engine_cannot_run")
    assert "/no/such/folder" in event["reason"]
