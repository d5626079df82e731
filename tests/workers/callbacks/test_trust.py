"""Which tasks follow from a job: those that `generate` said, and none that somebody wrote into a record."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery
from redis import Redis
from structlog.testing import capture_logs

from headrace import Job
from headrace.producers.celery.app import make_app
from headrace.producers.celery.task import generate  # noqa: F401 (a task of every app)
from headrace.schemas.celery_task import read_headers, task_job_id
from headrace.schemas.ids import new_job_id
from headrace.schemas.keys import celery_key
from headrace.schemas.scripts import enqueue, run
from headrace.schemas.settings.celery import CelerySettings
from headrace.schemas.settings.queue import QueueSettings
from headrace.schemas.wire import WireJob

from ...support.waiting import wait_until
from .conftest import TAG, Jobs

pytestmark = pytest.mark.filterwarnings("ignore:Call to deprecated setex")

REFUND: dict[str, Any] = {"task": "payments.refund", "args": [], "kwargs": {}, "options": {}}
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


def part(task_id: str = "t", **embed: object) -> str:
    headers = {"id": task_id, "task": "headrace.generate", "root_id": task_id}
    return json.dumps({"headers": headers, "embed": embed, "properties": {}})


@pytest.fixture
def app(redis_url: str) -> Iterator[Celery]:
    """An app that has a broker and a result backend, and no worker."""
    found = make_app(CelerySettings(redis_url=redis_url))
    found.conf.result_expires = 60
    found.finalize()
    yield found
    found.backend.client.connection_pool.disconnect()
    found.close()


def put(redis: Redis, celery: str, job_id: str | None = None) -> str:
    """A job with whatever somebody wrote into its record."""
    job = WireJob.of(Job.make(model="demo", prompt="x"), celery=celery)
    return run(redis, enqueue(TAG, job_id or new_job_id("demo"), job, QueueSettings(retention_s=600)))


def broker_lists(redis: Redis) -> list[bytes]:
    return [key for key in redis.scan_iter("hr:celery:*") if redis.type(key) == b"list"]


FOLLOWING: list[dict[str, object]] = [
    {"callbacks": [REFUND]},
    {"chain": [{**REFUND, "options": {"task_id": "next", "queue": "payments"}}]},
    {"chord": {**REFUND, "options": {"task_id": "body"}}},
]


@pytest.mark.parametrize("embed", FOLLOWING, ids=lambda embed: next(iter(embed)))
def test_of_a_record_that_names_another_jobs_task_nothing_follows(
    redis: Redis, jobs: Jobs, start_service, app: Celery, embed
):
    put(redis, part(**embed))
    jobs.end_all()
    with capture_logs() as logs:
        start_service(app)
        wait_until(lambda: not redis.xlen(TAG.outbox))
    assert {line["reason"] for line in logs if line["event"] == "task_dropped"} == {
        "celery: is the message of another job's task"
    }
    assert not broker_lists(redis)
    assert not list(redis.scan_iter("*celery-task-meta-*"))


@pytest.mark.parametrize("embed", FOLLOWING, ids=lambda embed: next(iter(embed)))
def test_of_a_message_that_is_not_signed_the_task_fails_and_nothing_is_sent(
    redis: Redis, jobs: Jobs, start_service, app: Celery, embed
):
    celery = part(**embed)
    put(redis, celery, task_job_id(read_headers(celery), "demo", 1))
    jobs.end_all()
    start_service(app)
    wait_until(lambda: not redis.xlen(TAG.outbox))
    result = app.AsyncResult("t")
    assert result.state == "FAILURE"
    assert "what should follow is not sent" in str(result.result)
    assert not broker_lists(redis)


def test_a_message_that_was_changed_after_it_was_signed_is_as_one_that_is_not(
    redis: Redis, jobs: Jobs, start_service, app: Celery
):
    job_id = jobs.enqueue(celery=part(callbacks=[]))
    spec = json.loads(redis.hget(TAG.job(job_id), "spec"))
    spec["celery"] = spec["celery"].replace('"callbacks": []', f'"callbacks": [{json.dumps(REFUND)}]')
    redis.hset(TAG.job(job_id), "spec", json.dumps(spec))
    jobs.end_all()
    start_service(app)
    wait_until(lambda: not redis.xlen(TAG.outbox))
    assert app.AsyncResult("t").state == "FAILURE"
    assert not broker_lists(redis)


def test_a_message_that_is_not_signed_and_has_nothing_to_follow_is_completed(
    redis: Redis, jobs: Jobs, start_service, app: Celery
):
    celery = part()
    put(redis, celery, task_job_id(read_headers(celery), "demo", 1))
    jobs.end_all()
    start_service(app)
    wait_until(lambda: not redis.xlen(TAG.outbox))
    assert app.AsyncResult("t").result["text"] == "answer to x"


def test_while_older_producers_are_in_use_what_they_did_not_sign_can_be_believed(
    redis: Redis, jobs: Jobs, start_service, app: Celery
):
    celery = part(callbacks=[REFUND])
    put(redis, celery, task_job_id(read_headers(celery), "demo", 1))
    jobs.end_all()
    start_service(app, celery_unsigned=True)
    wait_until(lambda: not redis.xlen(TAG.outbox))
    assert app.AsyncResult("t").state == "SUCCESS"
    for key in broker_lists(redis):
        redis.delete(key)


def test_what_generate_signs_is_sent_also_with_a_key_made_anew(
    redis: Redis, jobs: Jobs, start_service, app: Celery
):
    start_service(app)
    jobs.ended(celery=part("first"))
    wait_until(lambda: app.AsyncResult("first").state == "SUCCESS")
    redis.delete(celery_key())
    jobs.ended(celery=part("second", callbacks=[REFUND]))
    wait_until(lambda: app.AsyncResult("second").state == "SUCCESS")
    for key in broker_lists(redis):
        redis.delete(key)


def test_a_record_that_is_no_text_is_dropped_without_a_word_of_it(
    redis: Redis, jobs: Jobs, start_service, app: Celery
):
    job_id = jobs.ended(webhook={"url": "https://x.example/h", "secret": SECRET})
    spec = redis.hget(TAG.job(job_id), "spec")
    redis.hset(TAG.job(job_id), "spec", spec + b"\xff")
    with capture_logs() as logs:
        start_service(app)
        wait_until(lambda: not redis.xlen(TAG.outbox))
    assert "outbox_entry_dropped" in {line["event"] for line in logs}
    assert SECRET not in str(logs)


def test_an_app_with_a_secret_for_its_name_is_left_to_it_without_naming_it(
    redis: Redis, jobs: Jobs, start_service, app: Celery
):
    jobs.ended(celery=json.dumps({**json.loads(part()), "app": SECRET}))
    with capture_logs() as logs:
        start_service(app)
        wait_until(lambda: any(line["event"] == "outbox_entries_left" for line in logs))
    assert SECRET not in str(logs)
