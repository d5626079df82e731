"""What is to follow from a job follows, though its retention was over before callbacks came by."""

import pytest
from celery import Celery
from redis import Redis

from headrace import Job
from headrace.schemas.ids import new_job_id
from headrace.schemas.scripts import accept_delivery, cancel, drop_entry, enqueue, requeue_dead, run
from headrace.schemas.settings.queue import QueueSettings
from headrace.workers.callbacks import tasks

from ...support.waiting import wait_until
from .conftest import TAG, Jobs, Receiver
from .test_tasks import message

RETENTION_MS = 50
WEEK_MS = 7 * 86_400_000
HOOK = {"url": "https://x.example/h"}


def enqueued(redis: Redis, **fields: object) -> str:
    """A job with a retention of a moment."""
    job = Job.make(model="demo", prompt="x", **fields)
    settings = QueueSettings(retention_s=RETENTION_MS / 1000)
    return run(redis, enqueue(TAG, new_job_id("demo"), job, settings))


def wait_for_retention(redis: Redis, job_id: str) -> None:
    finished_ms = int(redis.hget(TAG.job(job_id), "finished_ms") or 0)

    def is_over() -> bool:
        seconds, micros = redis.time()
        return seconds * 1000 + micros / 1000 > finished_ms + RETENTION_MS + 10

    wait_until(is_over)


def entries(redis: Redis) -> list[str]:
    return [entry_id.decode() for entry_id, _ in redis.xrange(TAG.outbox)]


def test_a_webhook_is_sent_after_the_retention_and_then_the_job_goes(
    redis: Redis, jobs: Jobs, receiver: Receiver, start_service
):
    job_id = enqueued(redis, webhook={"url": receiver.url, "events": ["job.started", "job.succeeded"]})
    jobs.end_all()
    wait_for_retention(redis, job_id)
    start_service()
    wait_until(lambda: len(receiver.received) == 2)
    told = {request.event["type"]: request.event["data"] for request in receiver.received}
    assert told["job.succeeded"]["text"] == "answer to x"
    wait_until(lambda: not redis.exists(TAG.job(job_id), TAG.out(job_id)))


def test_a_celery_task_is_completed_after_the_retention_and_then_the_job_goes(
    redis: Redis, jobs: Jobs, start_service, monkeypatch
):
    states: list[str] = []
    monkeypatch.setattr(tasks, "complete", lambda app, task, record: states.append(record.state))
    monkeypatch.setattr(tasks, "note_started", lambda *_: None)
    job_id = jobs.enqueue(celery=message("t"))
    redis.hset(TAG.job(job_id), "retention_ms", RETENTION_MS)
    jobs.end_all()
    wait_for_retention(redis, job_id)
    start_service(Celery("none", broker="memory://", set_as_current=False))
    wait_until(lambda: states == ["succeeded"])
    wait_until(lambda: not redis.exists(TAG.job(job_id)))


def test_a_job_waits_for_callbacks_for_a_week_and_no_longer(redis: Redis, jobs: Jobs):
    job_id = enqueued(redis, webhook=HOOK)
    jobs.end_all()
    for key in (TAG.job(job_id), TAG.out(job_id)):
        assert WEEK_MS - 60_000 < redis.pttl(key) <= WEEK_MS


def test_a_retention_longer_than_a_week_holds(redis: Redis, jobs: Jobs):
    job_id = jobs.enqueue(webhook=HOOK)
    redis.hset(TAG.job(job_id), "retention_ms", 2 * WEEK_MS)
    jobs.end_all()
    assert redis.pttl(TAG.job(job_id)) > WEEK_MS
    (entry,) = entries(redis)
    run(redis, drop_entry(TAG, entry))
    assert redis.pttl(TAG.job(job_id)) > WEEK_MS


def test_the_last_entry_gives_the_job_its_own_retention_once(redis: Redis, jobs: Jobs):
    job_id = jobs.enqueue(webhook=HOOK | {"events": ["job.started", "job.succeeded"]})
    jobs.end_all()
    started, ended = entries(redis)
    for _ in range(2):
        run(redis, drop_entry(TAG, started))
        assert redis.pttl(TAG.job(job_id)) > 600_000
    what = {"job_id": job_id, "event": "job.succeeded", "tenant": "t", "url": "https://x.example/h"}
    run(redis, accept_delivery(TAG, ended, **what, body="{}", secret="", retention_s=60))
    assert 0 < redis.pttl(TAG.job(job_id)) <= 600_000
    assert not redis.hexists(TAG.job(job_id), "effects")


def test_a_job_without_effects_is_kept_for_its_retention(redis: Redis, jobs: Jobs):
    job_id = jobs.ended()
    assert 0 < redis.pttl(TAG.job(job_id)) <= 600_000


@pytest.mark.leaves_jobs
def test_a_job_that_lives_again_is_not_ended_by_what_told_of_its_death(redis: Redis, jobs: Jobs):
    job_id = enqueued(redis, webhook=HOOK)
    run(redis, cancel(TAG, job_id))
    redis.hset(TAG.job(job_id), "state", "failed")
    letter = redis.xadd(TAG.dead, {"job": job_id, "cause": "crashed"}).decode()
    run(redis, requeue_dead(TAG, letter))
    (entry,) = entries(redis)
    run(redis, drop_entry(TAG, entry))
    assert redis.pttl(TAG.job(job_id)) == -1


@pytest.mark.parametrize("field", ["effects", "expires_ms", "retention_ms"])
@pytest.mark.parametrize("value", ["", "x", "nan", "inf", "-1", "1.5", "9" * 30])
def test_whatever_is_damaged_the_job_ends_and_goes(redis: Redis, jobs: Jobs, field: str, value: str):
    job_id = jobs.enqueue(webhook=HOOK)
    redis.hset(TAG.job(job_id), field, value)
    jobs.end_all()
    assert redis.pttl(TAG.job(job_id)) != -1
    for entry in entries(redis):
        run(redis, drop_entry(TAG, entry))
    assert redis.pttl(TAG.job(job_id)) != -1
    assert not redis.xlen(TAG.outbox)
