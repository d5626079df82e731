"""Celery's forms with generations in them, on a real Redis and a real Celery worker.

The engine is played by a thread that claims and finishes jobs by the protocol's scripts; every completion is
done twice, as after a crash between doing and noting it.
"""

import copy
import gc
import json
import pickle
import threading
from collections.abc import Iterator

import kombu.pools
import pytest
from celery import Celery, chain, chord, group, shared_task
from celery.backends.redis import RedisBackend
from celery.contrib.testing.worker import start_worker
from celery.exceptions import TaskRevokedError
from celery.exceptions import TimeoutError as CeleryTimeoutError

from headrace import InvalidJob, JobFailed, QueueFull
from headrace.producers.celery.app import make_app
from headrace.producers.celery.task import generate
from headrace.schemas import keys
from headrace.schemas.keys import Tag
from headrace.schemas.record import Record
from headrace.schemas.redis.connection import connect
from headrace.schemas.scripts import ClaimRequest, claim, purge, run, upkeep
from headrace.schemas.settings.celery import CelerySettings
from headrace.schemas.settings.queue import QueueSettings
from headrace.workers.callbacks.completion import TaskMessage, complete, note_started

from ...support.ended import end_claimed
from .conftest import logging_left_alone

pytestmark = [
    pytest.mark.leaves_jobs,
    pytest.mark.filterwarnings("ignore:Call to deprecated setex"),  # Celery's result backend, with redis-py 8
]

TAG = Tag("demo")


@shared_task(name="tests.shout")
def shout(given):
    return (given["text"] if isinstance(given, dict) else given).upper()


@shared_task(name="tests.join")
def join(given):
    return "|".join(result["text"] for result in given)


@shared_task(name="tests.note_error")
def note_error(request, exc, traceback):
    """An errback."""
    from celery import current_app

    current_app.backend.client.set("noted-error", str(exc), ex=60)


class PlayedEngine(threading.Thread):
    """Answers every job with `answer to <prompt>`; a prompt `fail` fails."""

    def __init__(self, url: str, app: Celery) -> None:
        super().__init__(daemon=True)
        self.redis, self.app, self.stopping = connect(url), app, threading.Event()

    def run(self) -> None:
        while not self.stopping.wait(0.01):
            run(self.redis, upkeep(TAG, QueueSettings()))
            for job in run(self.redis, claim(TAG, ClaimRequest("w", "n", 60_000, 10**6, 100))).jobs:
                self.answer(job)
            self.relay()
        self.redis.close()

    def answer(self, job) -> None:
        prompt = json.loads(job.spec).get("prompt")
        end_claimed(self.redis, TAG, job, f"answer to {prompt}", failed=prompt == "fail")

    def relay(self) -> None:
        for entry_id, fields in self.redis.xrange(TAG.outbox):
            job_id = fields[b"job"].decode()
            record = Record(
                job_id, {n.decode(): v.decode() for n, v in self.redis.hgetall(TAG.job(job_id)).items()}
            )
            message = TaskMessage.of(json.loads(record.fields["spec"]))
            if fields[b"event"] == b"job.started":
                note_started(self.app, message, "w")
            else:
                complete(self.app, message, record)
                complete(self.app, message, record)
            self.redis.xdel(TAG.outbox, entry_id)


@pytest.fixture
def app(redis_url, redis, monkeypatch) -> Iterator[Celery]:
    monkeypatch.setenv("HEADRACE_REDIS_URL", redis_url)
    redis.hset(keys.models(), "demo", "{}")
    clients, create = [], RedisBackend._create_client  # one a thread, which Celery never closes
    monkeypatch.setattr(
        RedisBackend,
        "_create_client",
        lambda self, **options: clients.append(create(self, **options)) or clients[-1],
    )
    gc.freeze()  # what is here already need not be gone through
    app = make_app(CelerySettings.load())
    app.conf.result_expires = 60
    app.set_current()
    yield app
    generate.client().close()
    generate._connected = None
    gc.collect()  # results unsubscribe when they are collected: while there is a Redis
    for client in clients:
        client.connection_pool.disconnect()  # of which Celery makes one a client, that nobody else closes
        client.close()
    app.close()
    kombu.pools.reset()  # an app that is closed forgets its pool, with connections in it


@pytest.fixture
def served(app, redis_url) -> Iterator[Celery]:
    """The app with an engine and a worker for ordinary tasks."""
    engine = PlayedEngine(redis_url, app)
    engine.start()
    with logging_left_alone(), start_worker(app, perform_ping_check=False, pool="solo"):
        yield app
        engine.stopping.set()
        engine.join()


def test_a_task_is_a_job_and_its_result_the_jobs_result(served):
    result = generate.delay("hello", max_tokens=5)
    assert result.get(timeout=20)["text"] == "answer to hello"
    assert result.state == "SUCCESS"
    assert result.get()["job_id"] == result.job.id
    assert generate.AsyncResult(result.id).job.status().state == "succeeded"


def test_an_app_of_celerys_first_message_protocol_is_served(served):
    served.conf.task_protocol = 1
    served.amqp.__dict__.pop("create_task_message", None)  # chosen once
    assert generate.delay("hello", max_tokens=5).get(timeout=20)["text"] == "answer to hello"
    assert chain(generate.s("a"), shout.s())().get(timeout=20) == "ANSWER TO A"
    with pytest.raises(InvalidJob, match="max_tokens"):
        generate.delay("hello", max_tokens=0)
    late = generate.apply_async(("hello",), countdown=60)
    assert late.job.status().state == "delayed"
    late.job.cancel()


@pytest.mark.parametrize(
    ("canvas", "outcome"),
    [
        (lambda: chain(generate.s("a"), shout.s()), "ANSWER TO A"),
        (lambda: chain(shout.s("a"), generate.s(), shout.s()), "ANSWER TO A"),
        (lambda: chain(generate.s("a"), generate.s(max_tokens=3), shout.s()), "ANSWER TO ANSWER TO A"),
        (lambda: group(shout.s("a"), chain(generate.s("b"), shout.s())), ["A", "ANSWER TO B"]),
        (lambda: chord([generate.s("a"), chain(generate.s("b"), generate.s())], join.s()), None),
        (
            lambda: chain(group(generate.s("a"), generate.s("b")), join.s(), shout.s()),
            "ANSWER TO A|ANSWER TO B",
        ),
        (lambda: chord([generate.s("a")], chain(join.s(), generate.s(), shout.s())), "ANSWER TO ANSWER TO A"),
    ],
    ids=["chain", "in the middle", "one after another", "group", "nested in a chord", "upgraded", "body"],
)
def test_generations_go_with_ordinary_tasks_in_every_canvas(served, canvas, outcome):
    found = canvas().apply_async().get(timeout=20)
    assert found == (outcome or "answer to a|answer to answer to b")


def test_a_chord_of_thirty_gives_its_results_in_order(served):
    found = chord([generate.s(str(number)) for number in range(30)])(join.s()).get(timeout=30)
    assert found == "|".join(f"answer to {number}" for number in range(30))


def test_link_follows_success_and_link_error_failure(served, redis, eventually):
    linked = shout.s().set(task_id="linked")
    generate.apply_async(("a",), link=linked).get(timeout=20)
    assert served.AsyncResult("linked").get(timeout=20) == "ANSWER TO A"
    failing = generate.apply_async(("fail",), link_error=note_error.s())
    with pytest.raises(JobFailed, match="it was to fail"):
        failing.get(timeout=20)
    assert failing.state == "FAILURE"
    noted = eventually(lambda: redis.get("noted-error"))
    assert b"it was to fail" in noted


def test_get_reports_the_stream_as_it_comes(served):
    said: list[dict] = []
    generate.apply_async(("tell me",), countdown=0.3).get(timeout=20, on_message=said.append)
    assert [m["result"]["text"] for m in said if m["status"] == "PROGRESS"] == ["answer to tell me"]


def test_options_become_the_jobs_own(app):
    result = generate.apply_async(("x",), countdown=50, expires=100, priority=0, task_id="my-id")
    assert result.id == "my-id"
    status = result.job.status()
    assert (status.state, status.job_class) == ("delayed", "interactive")
    assert generate.apply_async(("x",), queue="batch").job.status().job_class == "batch"
    with pytest.raises(InvalidJob, match="queue: must be one of interactive, standard, batch"):
        generate.apply_async(("x",), queue="gpu")
    with pytest.raises(InvalidJob, match="priority"):
        generate.apply_async(("x",), priority=12)


@pytest.mark.parametrize(
    ("route", "options", "job_class"),
    [
        ({"queue": "batch"}, {}, "batch"),
        ("interactive", {}, "interactive"),
        ({"priority": 9}, {}, "batch"),
        ({"queue": "batch"}, {"queue": "standard"}, "standard"),
        ({"queue": "batch"}, {"priority": 0}, "interactive"),
        ({"queue": "elsewhere"}, {}, "standard"),
    ],
)
def test_a_route_chooses_the_class_where_the_call_does_not(app, route, options, job_class):
    """One to a queue that is no class is one of ordinary tasks, `headrace.generate` among them or not."""
    app.conf.task_routes = {"headrace.*": route}
    assert generate.apply_async(("x",), **options).job.status().job_class == job_class


def test_the_same_message_twice_is_one_job(app, redis):
    for _ in range(2):
        generate.apply_async(("x",), task_id="once")
    assert redis.xlen(TAG.lane("standard", "default")) == 1


@pytest.mark.parametrize(
    "again", [copy.copy, copy.deepcopy, lambda result: pickle.loads(pickle.dumps(result))]
)
def test_a_result_may_be_copied_and_pickled(served, again):
    result = again(generate.delay("hello"))
    assert result.get(timeout=20)["text"] == "answer to hello"
    assert result.job.status().state == "succeeded"


def test_the_job_says_which_app_completes_its_task(app, redis):
    spec = json.loads(redis.hget(TAG.job(generate.delay("x").job.id), "spec"))
    assert TaskMessage.of(spec).app == app.main == "headrace"


def test_a_wait_for_progress_ends_in_time(app):
    with pytest.raises(CeleryTimeoutError):
        generate.delay("nobody works").get(timeout=0.2, on_message=print)


def test_revoke_cancels_the_job(served):
    result = generate.apply_async(("never",), countdown=100)
    result.revoke()
    with pytest.raises(TaskRevokedError):
        result.get(timeout=20)
    assert (result.state, result.job.status().state) == ("REVOKED", "cancelled")


def test_a_purge_revokes_the_task_and_says_why(served, redis):
    result = generate.apply_async(("never",), countdown=100)
    assert run(redis, purge(TAG, result.job.id))
    with pytest.raises(TaskRevokedError, match="its queue was purged"):
        result.get(timeout=20)


def test_a_task_sent_by_name_alone_finds_its_way_to_the_stream(served):
    sent = served.send_task("headrace.generate", ("by name",), {"model": "demo"}, link=shout.s())
    assert sent.get(timeout=20)["text"] == "answer to by name"


def test_eager_and_direct_calls_generate_in_place(served):
    assert generate("direct")["text"] == "answer to direct"
    served.conf.task_always_eager = True
    assert generate.delay("eager").get()["text"] == "answer to eager"


def test_nobody_wants_the_result_and_none_is_stored(served, redis):
    result = generate.apply_async(("quiet",), ignore_result=True)
    result.job.result(timeout_s=20)
    assert not list(redis.scan_iter("*celery-task-meta-*"))


def test_a_bad_argument_is_refused_where_it_is_made(app):
    with pytest.raises(InvalidJob, match="max_tokens"):
        generate.delay("x", max_tokens=-1)
    with pytest.raises(InvalidJob, match="given twice"):
        generate.delay("x", prompt="y")
    with pytest.raises(InvalidJob, match="only positional"):
        generate.delay("x", "y")
    with pytest.raises(NotImplementedError, match="group"):
        generate.map(["x"])


def test_limits_reach_the_caller(app, redis):
    redis.hset(TAG.tenants, "default", '{"max_queued_jobs":1}')
    generate.delay("x")
    with pytest.raises(QueueFull):
        generate.delay("x")


@pytest.mark.parametrize(
    ("policy", "expected"),
    [("size", "(<11 characters>,)"), ("start", "('my secret…',)"), ("all", "('my secret!!',)")],
)
def test_what_is_shown_of_a_prompt_follows_the_policy(app, redis, monkeypatch, policy, expected):
    monkeypatch.setattr("headrace.schemas.redaction.SHOWN_CHARACTERS", 9)
    monkeypatch.setenv("HEADRACE_SHOW_PROMPTS", policy)
    job = generate.delay("my secret!!", tenant="t").job
    spec = json.loads(redis.hget(TAG.job(job.id), "spec"))
    headers = json.loads(spec["celery"])["headers"]
    assert headers["argsrepr"] == expected
    assert headers["kwargsrepr"] == "{'tenant': 't'}"
