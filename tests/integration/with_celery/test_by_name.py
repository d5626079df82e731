"""Generations from a project that knows the task's name alone: `send_task("headrace.generate", ...)`."""

import base64
import json
from datetime import UTC, datetime, timedelta

import pytest
from tests.support.waiting import wait_until

from headrace import InvalidJob, JobExpired, JobNotFound

from .conftest import Installation, hearing

pytestmark = [
    pytest.mark.serial,
    pytest.mark.xdist_group("celery"),  # they share an installation
    pytest.mark.filterwarnings("ignore:Call to deprecated setex"),  # Celery's result backend, with redis-py 8
]

FIXED = {"model": "demo", "max_tokens": 8, "temperature": 0, "ignore_eos": True}
PROMPT = "The lighthouse keeper's password"
SECRET = "whsec_" + base64.b64encode(b"of the lighthouse keeper's own").decode()
HOOK = {"url": "http://127.0.0.1:9/hook", "secret": SECRET}


@pytest.fixture
def send(installation: Installation):
    """Sends a generation by its name."""

    def by_name(*args, options=None, **kwargs):
        return installation.team.app.send_task(
            "headrace.generate", args, {**FIXED, **kwargs}, queue="headrace", **(options or {})
        )

    return by_name


def job_of(installation: Installation, sent):
    """The job that a task sent by name has become."""
    return wait_until(lambda: _found(installation.team.generate.AsyncResult(sent.id)))


def _found(result):
    try:
        return result.job
    except JobNotFound:
        return None


def test_its_result_is_the_jobs(installation, send):
    expected = installation.client.enqueue(prompt="A list is", **FIXED).result().text
    assert send("A list is").get(timeout=30)["text"] == expected


def test_no_event_and_no_log_has_its_prompt_or_its_secret(installation, send):
    seen: list[dict] = []
    with hearing(installation.team.app, ("*",), seen):
        with pytest.raises(InvalidJob, match="not_a_field"):
            send(PROMPT, webhook=HOOK, not_a_field=PROMPT).get(timeout=30)
        sent = send(PROMPT, webhook=HOOK)
        sent.get(timeout=30)
        wait_until(lambda: {"task-failed", "task-succeeded"} <= {event["type"] for event in seen})
    received = next(e for e in seen if e["type"] == "task-received" and e["uuid"] == sent.id)
    assert received["args"] == "(<32 characters>,)"
    assert "'max_tokens': 8" in received["kwargs"]
    assert "'webhook': <2 items>" in received["kwargs"]
    for text in (json.dumps(seen), *(installation.log(name) for name in ("worker", "callbacks", "flower"))):
        assert PROMPT not in text
        assert SECRET not in text


def test_a_message_without_arguments_is_no_harm(installation, send):
    with installation.team.app.producer_or_acquire() as producer:
        headers = {"id": "without-arguments", "task": "headrace.generate", "lang": "py"}
        producer.publish(([], PROMPT, {}), headers=headers, routing_key="headrace", serializer="json")
    assert send("A list is").get(timeout=30)["job_id"]
    assert "without-arguments" in installation.log("callbacks")
    assert PROMPT not in installation.log("callbacks")


def test_its_options_become_the_jobs_own(installation, send):
    """It is the job that waits until it is due, not the message: a revoke finds it."""
    due = datetime.now(UTC) + timedelta(hours=1)
    later = send("later", options={"eta": due, "expires": due + timedelta(hours=1), "priority": 8})
    status = job_of(installation, later).status()
    assert (status.state, status.job_class) == ("delayed", "batch")
    later.revoke()
    wait_until(lambda: later.state == "REVOKED", 20)
    late = send("x", options={"countdown": 100, "expires": 0.5})
    with pytest.raises(JobExpired):
        late.get(timeout=30)
    assert job_of(installation, send("x", job_class="interactive")).status().job_class == "interactive"
    assert job_of(installation, send("x")).status().job_class == "standard"


def test_no_result_is_kept_when_its_sender_wants_none(installation, send):
    sent = send("A list is", options={"ignore_result": True})
    job_of(installation, sent).result(timeout_s=30)
    wait_until(lambda: installation.to_relay == 0, 20)
    assert installation.team.app.backend.client.get(f"celery-task-meta-{sent.id}") is None
