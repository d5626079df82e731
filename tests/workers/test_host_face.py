"""What the host tells Celery while Celery can't be told anything."""

from types import SimpleNamespace
from typing import Any

from celery import Celery

from headrace.celery import generate
from headrace.workers.host import celery_view as face_module
from headrace.workers.host.celery_view import Face, add_task
from headrace.workers.supervision.pipe import JobLeft, JobStarted


class Dispatcher:
    """Notes events."""

    def __init__(self) -> None:
        self.sent: list[str] = []

    def send(self, event: str, **fields: Any) -> None:
        self.sent.append(event)

    enabled = True


def consumer(with_hub: bool = True) -> Any:
    """Celery's, as far as the face knows it."""
    hub = SimpleNamespace(call_soon=lambda tell: tell()) if with_hub else None
    app = Celery("host", set_as_current=False)
    add_task(app)
    return SimpleNamespace(app=app, hostname="h", hub=hub, event_dispatcher=Dispatcher())


def started(number: int) -> JobStarted:
    return JobStarted(f"job-{number}", f"task-{number}", "", "")


def a_face() -> Face:
    return Face(end=lambda job_id: None)


def test_news_from_before_the_connection_are_told_when_it_is_there() -> None:
    face, celery = a_face(), consumer()
    face.engine("engine-ready", "e")
    face.job("e", started(1))
    face.attach(celery)
    assert celery.event_dispatcher.sent == ["worker-engine-ready", "task-received", "task-started"]


def test_a_host_has_its_own_task_where_the_shared_one_was_imported() -> None:
    assert generate.name == face_module.TASK
    app = consumer().app
    assert app.tasks[face_module.TASK].run is face_module._not_here


def test_where_nobody_can_be_told_nothing_is_kept() -> None:
    face = a_face()
    face.engine("engine-ready", "e")
    face.attach(consumer(with_hub=False))
    for number in range(3):
        face.job("e", started(number))
        face.job("e", JobLeft(f"job-{number}", "succeeded", ""))
    assert not face._news


def test_of_a_long_outage_the_latest_news_are_kept_and_no_job_that_left_stays(monkeypatch) -> None:
    monkeypatch.setattr(face_module, "MOST_NEWS", 4)
    face, celery = a_face(), consumer()
    face.attach(celery)
    face.job("e", started(0))
    face.detach()
    face.job("e", JobLeft("job-0", "succeeded", ""))
    for number in range(1, 4):
        face.job("e", started(number))
        face.job("e", JobLeft(f"job-{number}", "succeeded", ""))
    assert len(face._news) == 4
    celery.event_dispatcher.sent.clear()
    face.attach(celery)
    assert celery.event_dispatcher.sent == 2 * ["task-received", "task-started", "task-succeeded"]
    assert not face._requests
