"""Celery tasks beside webhooks: who waits for whom, and who completes what."""

import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery
from redis import Redis
from structlog.testing import capture_logs

from headrace.producers.celery.app import make_app
from headrace.schemas.job import WebhookEvent
from headrace.schemas.settings.celery import CelerySettings
from headrace.workers.callbacks import run as callbacks
from headrace.workers.callbacks import service as service_module
from headrace.workers.callbacks import tasks
from headrace.workers.callbacks.message import Messages
from headrace.workers.callbacks.metrics import CallbackMetrics
from headrace.workers.callbacks.outbox import CONSUMER, Outbox
from headrace.workers.callbacks.tasks import Tasks
from headrace.workers.settings import CallbacksSettings

from ...support.waiting import wait_until
from .conftest import TAG, Jobs, Receiver

RELAY_S = 60.0


def message(task_id: str, link: bool = False, **fields: object) -> str:
    """A task's message in its job; with `link` an ordinary task follows it."""
    embed = {"callbacks": [{"task": "tests.next", "args": [], "kwargs": {}, "options": {}}]} if link else {}
    headers = {"id": task_id, "task": "headrace.generate", "root_id": task_id}
    return json.dumps({"headers": headers, "embed": embed, "properties": {}, **fields})


def messages(redis: Redis) -> Messages:
    """What reads the tasks' messages."""
    return Messages(redis, "hr", 1, unsigned=False)


@pytest.fixture
def silent_url() -> Iterator[str]:
    """A Redis that accepts connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0), backlog=128) as server:
        yield f"redis://127.0.0.1:{server.getsockname()[1]}/0"


@pytest.fixture
def silent_app(redis_url: str, silent_url: str) -> Iterator[Celery]:
    """An app whose broker never answers."""
    app = make_app(
        CelerySettings(redis_url=redis_url, celery_broker_url=silent_url, celery_result_backend=redis_url)
    )
    app.finalize()
    yield app
    app.close()


def test_a_broker_that_does_not_answer_delays_no_webhook_and_no_stop(
    redis: Redis, jobs: Jobs, receiver: Receiver, start_service, silent_app: Celery, monkeypatch
):
    monkeypatch.setattr(service_module, "END_S", 3.0)
    told = {"webhook": {"url": receiver.url}}
    both = jobs.ended(celery=message("t", link=True, app="headrace"), **told)
    alone = jobs.ended(**told)
    service = start_service(silent_app)
    wait_until(lambda: len(receiver.received) == 2)
    assert {request.event["data"]["job_id"] for request in receiver.received} == {both, alone}
    stopping = time.monotonic()
    service.stop()
    assert time.monotonic() - stopping < 6
    entries = [fields[b"job"].decode() for _, fields in redis.xrange(TAG.outbox)]
    assert set(entries) == {both}  # of which Celery is told when it is back


@pytest.mark.parametrize("silent", ["broker", "backend"])
def test_a_celery_that_does_not_answer_is_given_up_in_time(
    redis: Redis, jobs: Jobs, redis_url: str, silent_url: str, silent: str, monkeypatch
):
    monkeypatch.setattr(callbacks, "ANSWER_S", 0.1)
    urls = {"broker": redis_url, "backend": redis_url, silent: silent_url}
    app = make_app(
        CelerySettings(
            redis_url=redis_url, celery_broker_url=urls["broker"], celery_result_backend=urls["backend"]
        )
    )
    app.finalize()
    callbacks.configure(app, CallbacksSettings(redis_url=redis_url))
    outbox, metrics, stopping = Outbox(redis, TAG, RELAY_S), CallbackMetrics(), threading.Event()
    jobs.ended(celery=message("t", link=True))
    (entry,) = read(outbox, redis)
    tasks_ = Tasks(outbox, messages(redis), app, metrics, stopping)
    tasks_.add(*entry, WebhookEvent.SUCCEEDED, time.monotonic())
    thread = threading.Thread(target=tasks_.run)
    with capture_logs() as logs:
        thread.start()
        wait_until(lambda: [line for line in logs if line["event"] == "task_waits"], 20)
    stopping.set()
    thread.join()
    app.close()


def test_a_webhook_is_sent_once_while_its_jobs_task_waits(
    redis: Redis, jobs: Jobs, receiver: Receiver, start_service, monkeypatch
):
    away = threading.Event()
    seen: list[str] = []

    def complete(app: Celery, task: Any, record: Any) -> None:
        seen.append(task.task_id)
        if not away.is_set():
            raise tasks.NotCompleted("Celery is away")

    monkeypatch.setattr(tasks, "complete", complete)
    monkeypatch.setattr(tasks, "note_started", lambda *_: None)
    jobs.ended(celery=message("t"), webhook={"url": receiver.url})
    start_service(relay_s=0.5)
    wait_until(lambda: len(seen) >= 3)
    away.set()
    wait_until(lambda: not redis.xlen(TAG.outbox))
    assert len(receiver.received) == 1


@pytest.fixture
def completed(monkeypatch) -> Counter[str]:
    """Which tasks are completed, and how often."""
    found: Counter[str] = Counter()
    monkeypatch.setattr(tasks, "complete", lambda app, task, record: found.update([task.task_id]))
    return found


def read(outbox: Outbox, redis: Redis) -> list[tuple[str, str]]:
    """Entry and job of each end in the outbox, read for the first time."""
    outbox.join()
    entries = [(entry_id, fields[b"job"].decode()) for entry_id, fields in outbox.fresh()]
    for entry_id, _ in [entry for number, entry in enumerate(entries) if number % 2 == 0]:
        outbox.remove(entry_id)  # the starts
    return entries[1::2]


def test_what_another_process_took_over_is_completed_by_that_one_alone(
    redis: Redis, jobs: Jobs, completed: Counter[str]
):
    for number in range(3):
        jobs.ended(celery=message(f"t{number}"))
    slow, other = (Outbox(redis, TAG, RELAY_S) for _ in range(2))
    entries = read(slow, redis)
    read_at = time.monotonic() - RELAY_S
    for entry_id, _ in entries[1:]:  # so much time has passed
        redis.xclaim(TAG.outbox, "relay", CONSUMER, 0, [entry_id], idle=round(1000 * RELAY_S))
    taken_over = {entry_id for entry_id, _ in other.abandoned()}
    assert taken_over == {entry_id for entry_id, _ in entries[1:]}

    stopping, app = threading.Event(), Celery("none", set_as_current=False)
    metrics = CallbackMetrics()
    lists = [Tasks(outbox, messages(redis), app, metrics, stopping) for outbox in (slow, other)]
    for entry_id, job_id in entries[1:]:
        lists[0].add(entry_id, job_id, WebhookEvent.SUCCEEDED, read_at)
        lists[1].add(entry_id, job_id, WebhookEvent.SUCCEEDED, time.monotonic())
    redis.xclaim(TAG.outbox, "relay", CONSUMER, 0, [entries[0][0]], idle=round(2000 * RELAY_S))
    lists[0].add(*entries[0], WebhookEvent.SUCCEEDED, read_at)
    threads = [threading.Thread(target=one.run) for one in lists]
    threads[0].start()
    wait_until(lambda: completed == {"t0": 1})  # the first two of its list were not its own any more
    threads[1].start()
    wait_until(lambda: not redis.xlen(TAG.outbox))
    stopping.set()
    for thread in threads:
        thread.join()
    assert completed == {"t0": 1, "t1": 1, "t2": 1}
