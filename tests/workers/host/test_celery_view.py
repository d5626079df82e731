"""What the host tells Celery while Celery can't be told anything."""

from types import SimpleNamespace
from typing import Any

from celery import Celery

from headrace.celery import generate
from headrace.workers.host import celery_view as view_module
from headrace.workers.host.celery_view import CeleryView, add_task
from headrace.workers.supervision.pipe import JobLeft, JobStarted


class Dispatcher:
    """Notes events."""

    def __init__(self) -> None:
        self.sent: list[str] = []

    def send(self, event: str, **fields: Any) -> None:
        self.sent.append(event)

    enabled = True


def consumer(with_hub: bool = True) -> Any:
    """Celery's, as far as the view uses it."""
    hub = SimpleNamespace(call_soon=lambda tell: tell()) if with_hub else None
    app = Celery("host", set_as_current=False)
    add_task(app)
    return SimpleNamespace(app=app, hostname="h", hub=hub, event_dispatcher=Dispatcher())


def started(number: int) -> JobStarted:
    return JobStarted(f"job-{number}", f"task-{number}", "", "")


def a_view() -> CeleryView:
    return CeleryView(end=lambda job_id: None)


def test_news_from_before_the_connection_are_told_when_it_is_there() -> None:
    view, celery = a_view(), consumer()
    view.engine("engine-ready", "e")
    view.job("e", started(1))
    view.attach(celery)
    assert celery.event_dispatcher.sent == ["worker-engine-ready", "task-received", "task-started"]


def test_a_host_has_its_own_task_where_the_shared_one_was_imported() -> None:
    assert generate.name == view_module.TASK
    app = consumer().app
    assert app.tasks[view_module.TASK].run is view_module._not_here


def test_where_nobody_can_be_told_nothing_is_kept() -> None:
    view = a_view()
    view.engine("engine-ready", "e")
    view.attach(consumer(with_hub=False))
    for number in range(3):
        view.job("e", started(number))
        view.job("e", JobLeft(f"job-{number}", "succeeded", ""))
    assert not view._news


def test_of_a_long_outage_the_latest_news_are_kept_and_no_job_that_left_stays(monkeypatch) -> None:
    monkeypatch.setattr(view_module, "MOST_NEWS", 4)
    view, celery = a_view(), consumer()
    view.attach(celery)
    view.job("e", started(0))
    view.detach()
    view.job("e", JobLeft("job-0", "succeeded", ""))
    for number in range(1, 4):
        view.job("e", started(number))
        view.job("e", JobLeft(f"job-{number}", "succeeded", ""))
    assert len(view._news) == 4
    celery.event_dispatcher.sent.clear()
    view.attach(celery)
    assert celery.event_dispatcher.sent == 2 * ["task-received", "task-started", "task-succeeded"]
    assert not view._requests
