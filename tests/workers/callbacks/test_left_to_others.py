"""Outbox entries that are for another process than the one that comes by."""

import json

from celery import Celery
from redis import Redis

from headrace.producers.celery.message import celery_part
from headrace.schemas.job import SCHEMA_VERSION
from headrace.workers.callbacks import relay, tasks

from .conftest import TAG, Jobs, Receiver, wait_until


def test_what_follows_from_a_newer_job_waits_for_a_newer_process_and_holds_up_no_other(
    redis: Redis, jobs: Jobs, receiver: Receiver, start_service, monkeypatch
):
    told = {"webhook": {"url": receiver.url}}
    newer, known = jobs.ended(**told), jobs.ended(**told)
    spec = json.loads(redis.hget(TAG.job(newer), "spec")) | {"v": SCHEMA_VERSION + 1}
    unread = json.dumps(spec | {"from_the_future": 1})
    redis.hset(TAG.job(newer), mapping={"v": SCHEMA_VERSION + 1, "spec": unread})
    old = start_service(relay_s=0.5)
    wait_until(lambda: receiver.received)
    old.stop()
    assert [request.event["data"]["job_id"] for request in receiver.received] == [known]

    monkeypatch.setattr(relay, "SCHEMA_VERSION", SCHEMA_VERSION + 1)
    redis.hset(TAG.job(newer), "spec", json.dumps(spec))
    start_service(relay_s=600)  # which waits for nothing: it was left to whoever comes by
    wait_until(lambda: not redis.xlen(TAG.outbox))
    wait_until(lambda: len(receiver.received) == 2)
    assert receiver.received[1].event["data"]["job_id"] == newer


def test_each_apps_tasks_are_completed_by_callbacks_of_that_app(
    redis: Redis, jobs: Jobs, start_service, monkeypatch
):
    completed: list[tuple[str, str]] = []
    note = lambda app, task, record: completed.append((task.task_id, app.main))  # noqa: E731
    monkeypatch.setattr(tasks, "complete", note)
    monkeypatch.setattr(tasks, "note_started", lambda *_: None)
    for number in range(20):
        jobs.enqueue(celery=celery_part({"id": f"a{number}"}, {}, {}, "a"))
        jobs.enqueue(celery=celery_part({"id": f"b{number}"}, {}, {}, "b"))
    jobs.end_all()
    for name in ("a", "b"):
        start_service(Celery(name, broker="memory://", set_as_current=False), relay_s=0.5)
    wait_until(lambda: not redis.xlen(TAG.outbox))
    assert sorted(completed) == sorted((f"{app}{number}", app) for app in "ab" for number in range(20))


def test_a_task_names_its_app_unless_that_has_no_name():
    named = {name: json.loads(celery_part({"id": "t"}, {}, {}, name)) for name in ("team", "__main__", None)}
    assert named["team"]["app"] == "team"
    assert "app" not in named["__main__"] | named[None]


def test_a_task_that_names_no_app_is_anybodys(redis: Redis, jobs: Jobs, start_service, monkeypatch):
    monkeypatch.setattr(tasks, "complete", lambda *_: None)
    monkeypatch.setattr(tasks, "note_started", lambda *_: None)
    jobs.ended(celery=celery_part({"id": "t"}, {}, {}))
    start_service(Celery("a", broker="memory://", set_as_current=False))
    wait_until(lambda: not redis.xlen(TAG.outbox))
