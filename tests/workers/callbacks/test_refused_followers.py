"""What follows a generation and can never be sent: the task has failed, and who waits hears of it at once."""

import json
from typing import Any

import pytest
from celery import Celery, chain, chord, shared_task
from celery.exceptions import QueueNotFound
from redis import Redis

from headrace import InvalidJob, UnknownModel
from headrace.producers.celery.task import generate
from headrace.schemas.keys import Tag
from headrace.workers.callbacks.completion import NotCompleted, complete
from headrace.workers.callbacks.run import INTERNAL_ERROR

from .conftest import TAG, Jobs
from .test_completed_again import app, ended, follows, sent  # noqa: F401 (a fixture)

pytestmark = [
    pytest.mark.leaves_jobs,
    pytest.mark.filterwarnings("ignore:Call to deprecated setex"),  # Celery's result backend, with redis-py 8
    pytest.mark.filterwarnings(f"ignore:{INTERNAL_ERROR}:RuntimeWarning"),
]


@shared_task(name="tests.takes_none")
def takes_none() -> None:
    """Refuses what the task before gave."""


@shared_task(name="tests.note")
def note(request: Any, exc: Any, traceback: Any) -> None:
    """An errback that is called in place."""
    from celery import current_app

    current_app.backend.client.set("noted", str(exc), ex=60)


@shared_task(name="tests.raises")
def raises(request: Any, exc: Any, traceback: Any) -> None:
    """An errback with a defect."""
    raise RuntimeError("of its own")


@pytest.fixture
def end(app: Celery, redis: Redis, jobs: Jobs):  # noqa: F811
    """Ends a generation's job, twice as after a crash, and gives what became of its task."""

    def done(result: Any) -> Any:
        jobs.end_all()
        for _ in range(2):
            complete(app, *ended(redis, result.job.id))
        return app.AsyncResult(result.id)

    return done


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        ({"temperature": -5}, InvalidJob),
        ({"model": "nobody-serves-this"}, UnknownModel),
        ({"max_tokens": 0}, InvalidJob),
    ],
)
def test_a_chain_whose_next_generation_is_refused_fails_and_so_do_its_steps(app, end, bad, error):  # noqa: F811
    last = chain(generate.s("a"), generate.s(**bad), follows.s())()
    first = end(last.parent.parent)
    assert (first.state, last.parent.state, last.state) == ("FAILURE",) * 3
    assert isinstance(first.result, error)
    with pytest.raises(error):
        last.get(timeout=5)
    assert sent_nothing(app)


def sent_nothing(app: Celery) -> bool:  # noqa: F811
    return not app.backend.client.llen("hr:celery:celery")


def test_a_link_that_is_refused_fails_its_task(app, end):  # noqa: F811
    result = end(generate.apply_async(("a",), link=generate.s(max_tokens=0)))
    assert result.state == "FAILURE"
    assert isinstance(result.result, InvalidJob)


def test_a_task_that_does_not_take_what_it_is_given_fails_the_generation(app, end):  # noqa: F811
    result = end(generate.apply_async(("a",), link=takes_none.s()))
    assert (result.state, type(result.result)) == ("FAILURE", TypeError)


def test_a_queue_that_the_app_forbids_fails_the_generation(app, end):  # noqa: F811
    app.conf.task_create_missing_queues = False
    result = end(chain(generate.s("a"), follows.s().set(queue="elsewhere"))().parent)
    assert (result.state, type(result.result)) == ("FAILURE", QueueNotFound)


def test_a_task_that_the_app_does_not_know_is_sent_on_to_whoever_does(app, end, redis: Redis):  # noqa: F811
    result = end(generate.apply_async(("a",), link=app.signature("tests.of_another_project")))
    assert result.state == "SUCCESS"
    assert sent(redis) == 1


def test_errbacks_that_are_refused_or_raise_keep_none_of_the_others_back(app, end, redis: Redis):  # noqa: F811
    errbacks = [generate.s(max_tokens=0), raises.s(), note.s(), follows.si("it failed")]
    result = end(generate.apply_async(("a",), link=generate.s(max_tokens=0), link_error=errbacks))
    assert result.state == "FAILURE"
    assert b"max_tokens" in (redis.get("noted") or b"")
    assert sent(redis) == 2  # one for each completion, under one id
    ids = {json.loads(message)["headers"]["id"] for message in redis.lrange("hr:celery:celery", 0, -1)}
    assert len(ids) == 1


def test_a_chord_whose_body_is_a_generation_and_gets_a_list_fails(app, end, jobs: Jobs, redis: Redis):  # noqa: F811
    body = chord([generate.s("a"), generate.s("b")])(generate.s())
    for part in body.parent.results:
        end(part)
    assert body.state == "FAILURE"


def test_a_part_of_a_chord_that_can_not_go_on_fails_the_chord(app, end):  # noqa: F811
    body = chord([generate.s("a"), chain(generate.s("b"), generate.s(max_tokens=0))])(follows.s())
    good, bad = body.parent.results
    end(bad.parent)
    end(good)
    assert (bad.state, body.state) == ("FAILURE", "FAILURE")


def test_a_full_queue_is_waited_for(app, jobs: Jobs, redis: Redis):  # noqa: F811
    result = chain(generate.s("a"), generate.s())().parent
    jobs.end_all()
    redis.hset(Tag("demo").tenants, "default", '{"max_queued_jobs":0}')
    with pytest.raises(NotCompleted):
        complete(app, *ended(redis, result.job.id))
    assert result.state == "PENDING"
    redis.delete(TAG.tenants)
    complete(app, *ended(redis, result.job.id))
    assert result.state == "SUCCESS"
