"""Webhooks under OpenAI's names, which OpenAI's own client unwraps."""

import openai
import pytest
from openai.types.webhooks import UnwrapWebhookEvent

from headrace import Client
from headrace.schemas.errors import InvalidJob
from headrace.schemas.job import Webhook
from headrace.schemas.keys import BatchKeys
from headrace.schemas.scripts import claim_batch, end_batch, run
from headrace.schemas.webhooks.openai_events import response_event

from ...support.waiting import wait_until
from .conftest import Received

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
BATCH = "batch_01jd0000000000000000000000"
ENDED_S = 1_769_860_800


def unwrapped(received: Received) -> UnwrapWebhookEvent:
    with openai.OpenAI(api_key="-", webhook_secret=SECRET, _strict_response_validation=True) as client:
        return client.webhooks.unwrap(received.body, received.headers)


def test_a_response_tells_how_it_ended(jobs, receiver, start_service):
    hook = {"url": receiver.url, "secret": SECRET, "payload": "openai"}
    endings = [("succeeded", "stop"), ("succeeded", "length"), ("failed", ""), ("cancelled", "")]
    ids = []
    for ending in endings:
        ids.append(jobs.enqueue(webhook=hook))
        jobs.end_all(*ending)
    start_service()
    wait_until(lambda: len(receiver.received) == len(endings))
    told = {event.data.id: event for event in map(unwrapped, receiver.received)}
    names = ("completed", "incomplete", "failed", "cancelled")
    assert {event.data.id: event.type for event in told.values()} == {
        f"resp_{job_id}": f"response.{name}" for job_id, name in zip(ids, names, strict=True)
    }
    assert all(event.object == "event" and event.id.startswith("evt_") for event in told.values())
    assert len({event.id for event in told.values()}) == len(endings)


def test_a_response_whose_time_is_up_has_failed_as_it_says_when_it_is_read():
    assert response_event("expired") == "response.failed"


def test_no_event_of_openais_tells_of_a_start():
    with pytest.raises(InvalidJob, match=r"webhook\.payload: .*no event for job\.started"):
        Webhook(url="https://backend.example", events=("job.started", "job.failed"), payload="openai")


@pytest.mark.parametrize("status", ["completed", "failed", "cancelled", "expired"])
def test_a_batch_tells_how_it_ended_once_however_often_its_end_is_recorded(
    redis, redis_url, receiver, start_service, status
):
    batches = BatchKeys()
    redis.hset(batches.batch("shop", BATCH), "asked", "{}")
    redis.zadd(batches.active, {f"shop:{BATCH}": 0})
    run(redis, claim_batch(batches, "h", 60))
    hook = {"event": f"batch.{status}", "url": receiver.url, "secret": SECRET, "delivery_s": 600}
    call = end_batch(batches, "shop", BATCH, "h", 60, 600, {"status": status}, at_s=ENDED_S, **hook)
    assert run(redis, call)
    start_service()
    with Client(redis_url) as client:
        wait_until(lambda: [found.state for found in client.admin.deliveries()] == ["delivered"])
        assert run(redis, call)
        (delivery,) = client.admin.deliveries()
        assert (delivery.job_id, delivery.event, delivery.state) == (BATCH, f"batch.{status}", "delivered")
        assert client.admin.delivery(delivery.id).tenant == "shop"
    (received,) = receiver.received
    event = unwrapped(received)
    assert (event.type, event.data.id, event.created_at) == (f"batch.{status}", BATCH, ENDED_S)
    assert event.id == f"evt_{BATCH}"


def test_whoever_has_lost_a_batch_ends_nothing(redis):
    batches = BatchKeys()
    hook = {"event": "batch.completed", "at_s": ENDED_S, "url": "https://backend.example", "secret": ""}
    call = end_batch(batches, "shop", BATCH, "h", 60, 600, {"status": "completed"}, **hook, delivery_s=600)
    assert not run(redis, call)
    assert not list(redis.scan_iter(f"{batches.base}:*"))
