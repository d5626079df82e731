"""The Celery worker around the callbacks: a member of the team's app."""

from celery import Celery
from kombu import Exchange, Queue

from headrace.workers.callbacks.run import configure
from headrace.workers.callbacks.settings import CallbacksSettings


def configured(**conf: object) -> Celery:
    """A team's app as `headrace callbacks` changes it."""
    app = Celery("team", broker="memory://", set_as_current=False)
    app.conf.update(conf)
    configure(app, CallbacksSettings())
    return app


def test_the_teams_queues_stay_as_they_are_declared_and_headraces_comes_to_them():
    declared = Queue("io", Exchange("io", type="topic"), "io.#", queue_arguments={"x-max-priority": 5})
    app = configured(task_queues=[declared])
    found = app.amqp.queues["io"]
    assert (found.exchange.type, found.routing_key) == ("topic", "io.#")
    assert found.queue_arguments["x-max-priority"] == 5
    app.amqp.queues.select(["headrace"])
    assert list(app.amqp.queues.consume_from) == ["headrace"]


def test_an_app_without_declarations_keeps_its_default_queue():
    assert set(configured(task_default_queue="theirs").amqp.queues) == {"theirs", "headrace"}
