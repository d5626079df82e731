"""Who sends a task is told when nobody will complete it."""

import logging

import pytest
from celery import Celery
from redis import Redis

from headrace import Client
from headrace.producers.celery.followed import Followed
from headrace.producers.celery.task import generate
from headrace.schemas.keys import callbacks, models
from headrace.schemas.presence import note_presence


@pytest.fixture
def warned(redis_url: str, caplog):
    """What is said when a task of an app is sent, by a process that has sent none before."""

    def warned(app: str | None) -> list[str]:
        caplog.clear()
        with Client(redis_url) as client, caplog.at_level(logging.WARNING, "headrace"):
            Followed().check(client, app)
        return [record.getMessage() for record in caplog.records]

    return warned


def test_a_task_that_nobody_completes_is_warned_of_where_it_is_sent(redis: Redis, warned) -> None:
    [said] = warned("shop")
    assert said.startswith(
        "no callbacks of the Celery app 'shop' are alive: generations run, but their tasks"
    )
    assert "`headrace callbacks --app module:app`" in said
    assert warned("__main__")[0].startswith("no callbacks are alive: ")
    note_presence(redis, "headrace", "hr")
    assert "'shop' are alive, only of 'headrace': " in warned("shop")[0]
    assert warned("__main__") == warned(None) == []
    note_presence(redis, "shop", "hr")
    assert warned("shop") == []


def test_callbacks_that_have_fallen_silent_count_no_more(redis: Redis, warned) -> None:
    note_presence(redis, "shop", "hr")
    redis.hincrby(callbacks(), "shop", -20_000)
    assert len(warned("shop")) == 1
    redis.hincrby(callbacks(), "shop", -8 * 86_400_000)
    assert note_presence(redis, "other", "hr") == {"other"}
    assert redis.hkeys(callbacks()) == [b"other"]


def test_it_is_looked_at_once_in_a_while(redis: Redis, redis_url: str, caplog) -> None:
    followed = Followed()
    with Client(redis_url) as client, caplog.at_level(logging.WARNING, "headrace"):
        for _ in range(5):
            followed.check(client, "shop")
    assert len(caplog.records) == 1


@pytest.mark.leaves_jobs
def test_delay_itself_warns(redis: Redis, redis_url: str, monkeypatch, caplog) -> None:
    monkeypatch.setenv("HEADRACE_REDIS_URL", redis_url)
    redis.hset(models(), "demo", "{}")
    app = Celery("shop that sends", broker="memory://", backend="cache+memory://", set_as_current=False)
    app.finalize()
    task = app.tasks[generate.name]
    with task.client(), caplog.at_level(logging.WARNING, "headrace"):
        task.delay("x", model="demo")
    [record] = [record for record in caplog.records if "callbacks" in record.getMessage()]
    assert "of the Celery app 'shop that sends' are alive" in record.getMessage()
