"""What docs/webhooks.md shows works as it stands."""

import json
import re
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from openai import InvalidWebhookSignatureError
from standardwebhooks import WebhookVerificationError

from headrace.schemas import keys
from headrace.schemas.events import Output, Usage
from headrace.schemas.job import Job, WebhookEvent
from headrace.schemas.record import Record
from headrace.schemas.webhooks.openai_events import event_body
from headrace.schemas.webhooks.signing import new_secret, sign
from headrace.workers.callbacks.payload import MAX_BODY_BYTES, body
from headrace.workers.callbacks.webhooks.schedule import Schedule

PAGE = (Path(__file__).parents[4] / "docs" / "webhooks.md").read_text()
BODY = '{"type":"job.succeeded","data":{"text":"Übung"}}'.encode()


def blocks(language: str, containing: str) -> list[str]:
    found = re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    return [block for block in found if containing in block]


def function(code: str, name: str) -> Callable[..., Any]:
    names: dict[str, Any] = {}
    exec(compile(code, "webhooks.md", "exec"), names)
    return names[name]


def headers(secrets: list[str], sent_at_s: int) -> dict[str, str]:
    return {
        "webhook-id": "msg_1",
        "webhook-timestamp": str(sent_at_s),
        "webhook-signature": sign("msg_1", sent_at_s, BODY, secrets),
    }


@pytest.mark.parametrize("code", blocks("python", "def verify"), ids=["package", "by hand"])
@pytest.mark.parametrize("secret", [new_secret(), "sechzehn Zeichen für einen"], ids=["whsec", "plain"])
def test_the_verifiers_in_python_tell_ours_from_others(code, secret):
    verify, now_s = function(code, "verify"), int(time.time())
    for secrets in ([secret], [new_secret(), secret]):
        assert verify(secret, headers(secrets, now_s), BODY)["data"]["text"] == "Übung"
    forged = (
        (headers([secret], now_s), BODY.replace(b"bung", b"BUNG")),
        (headers([new_secret()], now_s), BODY),
        (headers([secret], now_s - 301), BODY),
        (headers([secret], now_s) | {"webhook-id": "msg_2"}, BODY),
        (headers([secret], now_s) | {"webhook-signature": "v1,ä"}, BODY),
        ({}, BODY),
    )
    for sent, text in forged:
        with pytest.raises((ValueError, WebhookVerificationError)):
            verify(secret, sent, text)


@pytest.mark.parametrize("secret", [new_secret(), "sechzehn Zeichen für einen"], ids=["whsec", "plain"])
def test_openais_event_that_is_shown_is_the_one_that_is_sent_and_unwrapped(secret):
    unwrap = function(*blocks("python", "def unwrap"), "unwrap")
    (shown,) = (json.loads(block) for block in blocks("json", '"object": "event"'))
    sent = event_body(shown["type"], shown["id"], shown["created_at"], shown["data"]["id"])
    assert json.loads(sent) == shown
    now_s = int(time.time())
    signed = {
        "webhook-id": "msg_1",
        "webhook-timestamp": str(now_s),
        "webhook-signature": sign("msg_1", now_s, sent.encode(), [secret]),
    }
    assert unwrap(secret, signed, sent.encode()).data.id == shown["data"]["id"]
    with pytest.raises(InvalidWebhookSignatureError):
        unwrap(new_secret(), signed, sent.encode())


@pytest.mark.leaves_jobs
def test_the_job_with_a_webhook_is_taken(redis, redis_url):
    redis.hset(keys.models(), "demo", json.dumps({"id": "demo"}))
    (code,) = blocks("python", "client.enqueue")
    names: dict[str, Any] = {}
    exec(compile(code.replace("redis://localhost:6379/0", redis_url), "webhooks.md", "exec"), names)
    with names["client"] as client:
        assert client.job(names["job"].id).status().metadata == {"order": "42"}


def test_what_follows_from_an_event_is_done_once():
    handle = function(*blocks("python", "def handle"), "handle")
    database = sqlite3.connect(":memory:")
    try:
        database.executescript(
            "CREATE TABLE webhooks (id TEXT PRIMARY KEY);"
            "CREATE TABLE orders (id TEXT, story TEXT); INSERT INTO orders VALUES ('42', NULL);"
        )
        for text in ("first", "again"):
            handle(database, "msg_1", {"data": {"metadata": {"order": "42"}, "text": text}})
        assert database.execute("SELECT story FROM orders").fetchall() == [("first",)]
    finally:
        database.close()


def test_the_body_shown_has_the_fields_that_are_sent():
    (shown,) = (json.loads(block) for block in blocks("json", '"timestamp"'))
    output = Output(text="x", token_ids=(1,), finish_reason="stop", usage=Usage())
    times = {f"{name}_ms": "1" for name in ("enqueued", "started", "first_token", "finished")}
    fields = {
        "state": "succeeded",
        "worker": "w",
        "attempts": "0",
        "fingerprint": "f",
        "result": output.model_dump_json(),
        **times,
    }
    job = Job.make(model="demo", prompt="x", webhook={"url": "https://backend.example/"})
    sent = json.loads(body(WebhookEvent.SUCCEEDED, 1, job, Record("id", fields)))
    assert shown.keys() == sent.keys()
    assert shown["data"].keys() == sent["data"].keys()
    for name in ("usage", "timings"):
        assert shown["data"][name].keys() == sent["data"][name].keys()


def test_with_all_the_metadata_that_fits_a_job_a_thin_body_is_as_small_as_promised():
    metadata = {f"{n:02}".ljust(64, "\x01"): "\x01" * 512 for n in range(64)}  # six bytes each in JSON
    job = Job.make(model="demo", prompt="x", metadata=metadata, webhook={"url": "https://backend.example/"})
    output = Output(text="x" * 2**20, token_ids=tuple(range(2**16)), finish_reason="stop", usage=Usage())
    fields = {"state": "succeeded", "worker": "w", "attempts": "0", "result": output.model_dump_json()}
    sent = body(WebhookEvent.SUCCEEDED, 1, job, Record("id", fields))
    assert len(sent.encode()) <= MAX_BODY_BYTES == 256 * 1024
    data = json.loads(sent)["data"]
    assert (data["truncated"], data["metadata"]) == (True, metadata)


def test_every_event_and_the_schedule_are_told_as_they_are():
    for event in WebhookEvent:
        assert f"| `{event.value}` |" in PAGE
    minute, hour = 60, 3600
    told = (5, 5 * minute, 30 * minute, *(hours * hour for hours in (2, 5, 10, 14, 20, 24)))
    assert told == Schedule().delays_s
