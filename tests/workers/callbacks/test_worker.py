"""The Celery worker around the callbacks: a member of the team's app."""

import subprocess
import sys

import pytest
from celery import Celery
from kombu import Exchange, Queue

from headrace.cli import callbacks as callbacks_cli
from headrace.workers.callbacks import run as callbacks_run
from headrace.workers.callbacks.run import configure
from headrace.workers.settings import CallbacksSettings


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


def test_a_redis_given_as_an_option_reaches_the_app_that_is_imported_after_it(monkeypatch):
    monkeypatch.setenv("HEADRACE_REDIS_URL", "redis://elsewhere:6379/0")
    monkeypatch.delitem(sys.modules, "headrace.celery", raising=False)
    found: list[Celery] = []
    monkeypatch.setattr(callbacks_run, "run", lambda settings, app: found.append(app) or 0)
    flags = {"redis_url": "redis://given:6380/3", "app": "headrace.celery:app"}
    assert callbacks_cli._run(flags) == 0
    assert found[0].conf.broker_url == "redis://given:6380/3"


def test_an_app_that_is_nowhere_is_refused_with_the_way_out(monkeypatch, capsys):
    monkeypatch.setenv("HEADRACE_REDIS_URL", "redis://elsewhere:6379/0")
    assert callbacks_cli._run({"app": "shop.app:app"}) == 2
    said = capsys.readouterr().err
    assert "No module named 'shop'" in said
    assert "run this in the project's folder or install the project" in said


@pytest.mark.parametrize(
    ("missing", "said"),
    [
        ("celery", "headrace.celery needs Celery, which is not installed: pip install 'headrace[celery]'"),
        ("kombu", "No module named 'kombu'"),
    ],
)
def test_headrace_celery_without_its_extra_says_which_it_is(missing, said):
    code = f"""
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "{missing}":
            raise ModuleNotFoundError("No module named '{missing}'", name="{missing}")
sys.meta_path.insert(0, Missing())
import headrace.celery
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ended.stderr.strip().splitlines()[-1] == f"ModuleNotFoundError: {said}"
