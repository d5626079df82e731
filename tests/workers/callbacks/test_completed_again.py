"""A task whose completion did not go through at first: nothing of it counts until it does."""

import json
from collections.abc import Iterator
from unittest.mock import Mock

import pytest
from celery import Celery, chain, chord, shared_task
from celery.backends.redis import ResultConsumer
from kombu.exceptions import OperationalError

from headrace.producers.celery.app import make_app
from headrace.producers.celery.task import generate
from headrace.schemas.record import Record
from headrace.schemas.settings.celery import CelerySettings
from headrace.workers.callbacks.completion import NotCompleted, TaskMessage, complete, note_started

from .conftest import TAG, Jobs

pytestmark = [
    pytest.mark.leaves_jobs,
    pytest.mark.filterwarnings("ignore:Call to deprecated setex"),  # Celery's result backend, with redis-py 8
]

NOBODY = "redis://127.0.0.1:9/0"


@shared_task(name="tests.follows")
def follows(given):
    """Nobody runs it here: its messages stay in the broker."""


@pytest.fixture
def app(redis_url, monkeypatch) -> Iterator[Celery]:
    monkeypatch.setenv("HEADRACE_REDIS_URL", redis_url)
    # Nobody waits for results here; what subscribed to them would outlive the test.
    monkeypatch.setattr(ResultConsumer, "consume_from", lambda consumer, task_id: None)
    app = make_app(CelerySettings.load())
    app.conf.update(result_expires=60, result_backend_thread_safe=True)
    app.set_current()
    yield app
    app.control.purge()
    app.backend.client.connection_pool.disconnect()
    generate.client().close()
    generate._connected = None
    app.close()


@pytest.fixture
def without_broker(app, redis_url) -> Iterator[Celery]:
    """The same app where the broker can't be reached."""
    away = make_app(
        CelerySettings(redis_url=redis_url, celery_broker_url=NOBODY, celery_result_backend=redis_url)
    )
    away.conf.update(
        task_publish_retry=False, result_backend_transport_options=app.conf.broker_transport_options
    )
    yield away
    away.backend.client.connection_pool.disconnect()
    away.close()


def ended(redis, job_id: str) -> tuple[TaskMessage, Record]:
    """What a relay knows of a job's end."""
    table = {name.decode(): value.decode() for name, value in redis.hgetall(TAG.job(job_id)).items()}
    return TaskMessage.of(json.loads(table["spec"])), Record(job_id, table)


def sent(redis) -> int:
    """Messages in the broker."""
    return redis.llen("hr:celery:celery")


@pytest.fixture
def breaking_broker(app) -> Iterator[Celery]:
    """The same app where the broker breaks down at each message."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(app.amqp, "send_task_message", Mock(side_effect=OperationalError("broken")))
        yield app


@pytest.mark.parametrize("broker", ["without_broker", "breaking_broker"])
def test_a_broker_that_is_away_makes_no_task_and_no_chord_fail(app, broker, redis, jobs: Jobs, request):
    result = chord([chain(generate.s("a"), follows.s()), generate.s("b")])(follows.s())
    part = result.parent.results[0]
    first = generate.AsyncResult(part.parent.id)
    jobs.end_all()
    message, record = ended(redis, first.job.id)
    away = request.getfixturevalue(broker)
    for _ in range(2):
        with pytest.raises(NotCompleted):
            complete(away, message, record)
    assert (first.state, part.state) == ("PENDING", "PENDING")


def test_what_follows_is_sent_once_the_result_is_stored_no_more(app, redis, jobs: Jobs):
    result = chain(generate.s("a"), follows.s())().parent
    jobs.end_all()
    for _ in range(3):
        complete(app, *ended(redis, result.job.id))
    assert sent(redis) == 1


def test_a_callback_that_is_sent_again_has_its_id(app, redis, jobs: Jobs):
    result = generate.apply_async(("a",), link=follows.s(), link_error=follows.s(), ignore_result=True)
    jobs.end_all()
    for _ in range(2):  # where no result is kept, nothing tells that it was sent
        complete(app, *ended(redis, result.job.id))
    messages = [json.loads(message) for message in redis.lrange("hr:celery:celery", 0, -1)]
    assert len(messages) == 2
    assert len({message["headers"]["id"] for message in messages}) == 1


def test_an_app_without_a_result_backend_has_its_callbacks(app, redis, jobs: Jobs, redis_url):
    result = generate.apply_async(("a",), link=follows.s())
    jobs.end_all()
    message, record = ended(redis, result.job.id)
    settings = CelerySettings.load()
    plain = make_app(settings)
    plain.conf.result_backend = None
    note_started(plain, message, "w")
    complete(plain, message, record)
    plain.close()
    assert sent(redis) == 1
