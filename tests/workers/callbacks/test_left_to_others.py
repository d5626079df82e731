"""Outbox entries that are for another process than the one that comes by."""

import json

from celery import Celery
from prometheus_client import CollectorRegistry
from redis import Redis
from structlog.testing import capture_logs

from headrace.producers.celery.message import celery_part
from headrace.schemas.job import SCHEMA_VERSION
from headrace.workers.callbacks import relay, tasks

from ...support.waiting import wait_until
from .conftest import TAG, Jobs, Receiver


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


def test_callbacks_of_two_apps_hand_each_others_tasks_over_at_once(
    redis: Redis, jobs: Jobs, start_service, monkeypatch
):
    completed: list[tuple[str, str]] = []
    note = lambda app, task, record: completed.append((task.task_id, app.main))  # noqa: E731
    monkeypatch.setattr(tasks, "complete", note)
    monkeypatch.setattr(tasks, "note_started", lambda *_: None)
    services = [  # what is left alone they would look for in minutes
        start_service(Celery(name, broker="memory://", set_as_current=False), relay_s=600) for name in "ab"
    ]
    wait_until(lambda: all(service._living == {"a", "b"} for service in services))
    wait_until(lambda: redis.exists(TAG.left("a"), TAG.left("b")) == 2)
    for number in range(20):
        jobs.enqueue(celery=celery_part({"id": f"a{number}"}, {}, {}, "a"))
        jobs.enqueue(celery=celery_part({"id": f"b{number}"}, {}, {}, "b"))
    jobs.end_all()
    wait_until(lambda: not redis.xlen(TAG.outbox), 10)
    assert sorted(completed) == sorted((f"{app}{number}", app) for app in "ab" for number in range(20))
    wait_until(lambda: not redis.xlen(TAG.left("a")) and not redis.xlen(TAG.left("b")))


def test_tasks_of_an_app_without_callbacks_are_spoken_of_once_and_not_every_few_seconds(
    redis: Redis, jobs: Jobs, start_service
):
    jobs.ended(celery=celery_part({"id": "t"}, {}, {}, "team"))
    registry = CollectorRegistry()
    left = lambda: registry.get_sample_value("headrace_outbox_entries_total", {"outcome": "left"}) or 0  # noqa: E731
    with capture_logs() as logs:
        start_service(
            Celery("other", broker="memory://", set_as_current=False), registry=registry, relay_s=0.5
        )
        wait_until(lambda: left() >= 6)
    [line] = [line for line in logs if line["event"] == "outbox_entries_left"]
    assert line["log_level"] == "warning"
    assert (
        "no callbacks of 'team' are alive: start headrace callbacks --app module:app for it" in line["reason"]
    )


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
