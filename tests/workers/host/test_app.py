"""Which broker a host joins, and how."""

import json

import pytest

from headrace.cli.config import effective_settings
from headrace.producers.celery import app as producers_app
from headrace.schemas.errors import BadSetting
from headrace.schemas.settings.celery import CelerySettings
from headrace.workers.host.app import make_app
from headrace.workers.settings import WorkerSettings

OPTIONS = {"master_name": "team", "global_keyprefix": "team:", "sentinel_kwargs": {"password": "hunter2"}}


@pytest.fixture
def teams_broker(monkeypatch) -> None:
    monkeypatch.setenv("HEADRACE_CELERY_BROKER_URL", "sentinel://localhost:26379/0")
    monkeypatch.setenv("HEADRACE_CELERY_BROKER_TRANSPORT_OPTIONS", json.dumps(OPTIONS))


def test_a_host_joins_the_teams_broker_with_the_teams_options(teams_broker) -> None:
    for app in (make_app(WorkerSettings.load()), producers_app.make_app(CelerySettings.load())):
        assert app.conf.broker_url.startswith("sentinel://")
        assert OPTIONS.items() <= app.conf.broker_transport_options.items()


def test_passwords_in_the_options_are_not_shown(teams_broker) -> None:
    shown = {setting.name: setting.value for setting in effective_settings(None)}
    assert shown["celery_broker_transport_options"] == OPTIONS | {"sentinel_kwargs": "***"}
    assert "hunter2" not in repr(WorkerSettings.load())


@pytest.mark.parametrize("value", ["master_name=team", "[]"])
def test_options_that_are_no_json_object_are_refused_by_name(monkeypatch, value) -> None:
    monkeypatch.setenv("HEADRACE_CELERY_BROKER_TRANSPORT_OPTIONS", value)
    with pytest.raises(BadSetting, match="celery_broker_transport_options"):
        WorkerSettings.load()
