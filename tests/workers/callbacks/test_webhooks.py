"""Webhooks from the outbox to the receiver, by a real service on a real Redis; only time is played."""

import asyncio
import json
import socket
from collections import Counter
from contextlib import ExitStack
from typing import Any
from unittest.mock import Mock

import pytest
from prometheus_client import CollectorRegistry
from standardwebhooks import Webhook
from structlog.testing import capture_logs

from headrace.schemas import keys
from headrace.schemas.ids import new_job_id
from headrace.schemas.keys import Tag
from headrace.schemas.redis.connection import connect_async
from headrace.schemas.scripts import DueDelivery, accept_delivery, purge, run
from headrace.schemas.webhooks.delivery import DeliveryState
from headrace.workers.callbacks.deliveries import SETTLE_S, Deliveries
from headrace.workers.callbacks.metrics import CallbackMetrics
from headrace.workers.settings import CallbacksSettings

from ...support.waiting import wait_until
from .conftest import DAY, TAG, Jobs, Receiver

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
MINUTE = 60


def delivery(redis, job_id: str) -> dict[str, Any]:
    """What is kept of the job's one delivery."""
    for key in redis.scan_iter(f"{TAG.base}:delivery:*"):
        fields = {name.decode(): value.decode() for name, value in redis.hgetall(key).items()}
        if fields["job_id"] == job_id:
            return fields | {"history": json.loads(fields.get("history", "[]"))}
    return {}


def in_state(redis, job_id: str, state: str) -> dict[str, Any]:
    return wait_until(lambda: (found := delivery(redis, job_id)).get("state") == state and found)


TIME_PASSES = """
local base, milliseconds = ARGV[1], tonumber(ARGV[2])
for _, key in ipairs(redis.call('KEYS', base .. ':*')) do
  local kind = string.match(key, '^:([^:]+)', #base + 1)
  if kind == 'due' or kind == 'endpoints' or kind == 'waiting' then
    for _, member in ipairs(redis.call('ZRANGE', key, 0, -1)) do
      redis.call('ZINCRBY', key, -milliseconds, member)
    end
  elseif kind == 'endpoint' and redis.call('HEXISTS', key, 'open_until_ms') == 1 then
    redis.call('HINCRBY', key, 'open_until_ms', -milliseconds)
  end
end
"""
"""A script: between two commands a delivery may be made and settled, and the second would put it back."""


def time_passes(redis, seconds: float) -> None:
    """All moments that the queue has noted for deliveries were so much longer ago."""
    redis.eval(TIME_PASSES, 0, TAG.base, round(1000 * seconds))


def at_rest(redis) -> bool:
    """Whether nothing is due and nothing is being sent."""
    seconds, micros = redis.time()
    now = seconds * 1000 + micros // 1000
    sending = list(redis.scan_iter(f"{TAG.base}:sending:*"))
    return not redis.zcount(TAG.due(), "-inf", now) and not sending and not redis.xlen(TAG.outbox)


def test_a_job_tells_its_receiver_what_became_of_it(redis, jobs: Jobs, receiver: Receiver, start_service):
    webhook = {"url": receiver.url, "secret": SECRET, "events": ["job.started", "job.succeeded"]}
    start_service()
    job_id = jobs.ended(prompt="hello", webhook=webhook, metadata={"order": "7"}, tenant="shop")
    wait_until(lambda: len(receiver.received) == 2)
    events = {e["type"]: e for e in (Webhook(SECRET).verify(r.body, r.headers) for r in receiver.received)}
    assert events.keys() == {"job.started", "job.succeeded"}  # in any order: they may overtake each other
    data = events["job.succeeded"]["data"]
    assert (data["job_id"], data["text"], data["token_ids"]) == (job_id, "answer to hello", [1, 2])
    assert (data["tenant"], data["metadata"], data["finish_reason"]) == ("shop", {"order": "7"}, "stop")
    assert len(set(receiver.ids())) == 2
    wait_until(lambda: at_rest(redis))


def test_a_purged_job_tells_its_receiver_why(redis, jobs: Jobs, receiver: Receiver, start_service):
    start_service()
    assert run(redis, purge(TAG, jobs.enqueue(webhook={"url": receiver.url, "events": ["job.cancelled"]})))
    wait_until(lambda: receiver.received)
    (request,) = receiver.received
    assert request.event["data"]["error"] == {"code": "purged", "message": "its queue was purged"}
    wait_until(lambda: at_rest(redis))


def test_a_thin_payload_has_no_text_and_other_events_are_not_sent(redis, jobs, receiver, start_service):
    start_service()
    jobs.ended(webhook={"url": receiver.url, "payload": "thin", "events": ["job.succeeded"]})
    jobs.ended(webhook={"url": receiver.url, "events": ["job.failed"]})
    wait_until(lambda: receiver.received)
    wait_until(lambda: at_rest(redis))
    (request,) = receiver.received
    assert not {"text", "token_ids"} & request.event["data"].keys()
    assert request.event["data"]["usage"]["completion_tokens"] == 0
    assert "webhook-signature" not in request.headers


def test_all_of_a_tenants_secrets_sign_while_they_change(redis, jobs, receiver, start_service):
    other = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"
    for n, secret in enumerate((SECRET, other)):
        listed = {"id": str(n), "secret": secret, "created_ms": n}
        redis.hset(keys.webhook_secrets("shop"), str(n), json.dumps(listed))
    start_service()
    jobs.ended(webhook={"url": receiver.url}, tenant="shop")
    (request,) = wait_until(lambda: receiver.received)
    for secret in (SECRET, other):
        assert Webhook(secret).verify(request.body, request.headers)


def test_a_receiver_that_is_down_for_a_day_gets_each_event_once_with_one_id(
    redis, jobs: Jobs, receiver: Receiver, start_service
):
    receiver.status = 503
    start_service()
    made = [jobs.ended(prompt=str(n), webhook={"url": receiver.url, "secret": SECRET}) for n in range(10)]
    for _ in range(DAY // (10 * MINUTE)):
        wait_until(lambda: at_rest(redis))
        time_passes(redis, 10 * MINUTE)
    wait_until(lambda: at_rest(redis))
    refused = Counter(receiver.ids())
    assert len(refused) == 10
    assert {delivery(redis, job_id)["state"] for job_id in made} == {"pending"}
    receiver.status, receiver.received = 200, []
    for _ in range(4 * 24 * 6):
        if len(receiver.received) == 10:
            break
        time_passes(redis, 10 * MINUTE)
        wait_until(lambda: at_rest(redis))
    assert Counter(receiver.ids()) == dict.fromkeys(refused, 1)
    assert {delivery(redis, job_id)["state"] for job_id in made} == {"delivered"}
    for request in receiver.received:
        assert Webhook(SECRET).verify(request.body, request.headers)
    print(f"{sum(refused.values())} attempts in the day for 10 events")


def test_a_receiver_that_never_answers_is_given_up_after_the_schedule(redis, jobs, receiver, start_service):
    receiver.status = 500
    start_service()
    job_id = jobs.ended(webhook={"url": receiver.url})
    for _ in range(12):
        wait_until(lambda: at_rest(redis))
        time_passes(redis, 2 * DAY)
    failed = in_state(redis, job_id, "failed")
    assert len(failed["history"]) == int(failed["attempts"]) == 10
    assert {attempt["status"] for attempt in failed["history"]} == {500}


def test_what_expires_before_it_is_delivered_is_counted(redis, jobs, receiver, start_service):
    receiver.status, registry = 503, CollectorRegistry()
    expired = lambda: registry.get_sample_value("headrace_webhooks_expired_total")  # noqa: E731
    start_service(registry=registry)
    lost, delivered = (jobs.ended(webhook={"url": f"{receiver.url}/{n}"}) for n in range(2))
    wait_until(lambda: {delivery(redis, job_id).get("attempts") for job_id in (lost, delivered)} == {"1"})
    assert expired() == 0
    (key,) = (key for key in redis.scan_iter(f"{TAG.base}:delivery:*") if lost in str(redis.hgetall(key)))
    redis.delete(key)  # as its TTL does
    receiver.status = 204
    time_passes(redis, 10)
    wait_until(lambda: expired() == 1)
    in_state(redis, delivered, "delivered")
    assert expired() == 1


def test_a_dead_receiver_delays_no_other(redis, jobs, receiver, start_service):
    never = 60.0
    with socket.create_server(("127.0.0.1", 0), backlog=64) as silent:  # connects, and never answers
        start_service(webhook_concurrency=16, webhook_timeout_s=never)
        for number in range(64):
            url = f"http://127.0.0.1:{silent.getsockname()[1]}/{number}"
            jobs.enqueue(webhook={"url": url}, tenant=f"t{number % 4}")
        jobs.end_all()
        half = lambda: len(list(redis.scan_iter(f"{TAG.base}:sending:*"))) == 8  # noqa: E731
        wait_until(half)
        for _ in range(20):
            jobs.ended(webhook={"url": receiver.url})
        wait_until(lambda: len(receiver.received) == 20, timeout_s=never / 4)
        wait_until(half)  # the last one's settling may be under way


def test_attempts_that_end_together_are_all_settled(redis, jobs, receiver: Receiver, start_service):
    many = 120
    receiver.answering.clear()
    start_service(webhook_timeout_s=20)
    with capture_logs() as logs:
        for number in range(many):
            jobs.enqueue(webhook={"url": f"{receiver.url}/{number}"})
        jobs.end_all()
        wait_until(lambda: len(receiver.received) == many)
        redis.client_pause(300, all=False)  # writes wait, so that all of them want a connection at once
        receiver.answering.set()
        wait_until(lambda: at_rest(redis))
    assert [entry for entry in logs if entry["log_level"] != "info"] == []
    assert Counter(receiver.ids()) == dict.fromkeys(receiver.ids(), 1)


def test_an_attempt_whose_lease_would_end_before_it_is_left_to_the_next(
    redis, jobs, receiver: Receiver, start_service, monkeypatch
):
    read, lease_s = Deliveries._secrets_of, 2 * 0.3 + SETTLE_S
    late = iter([lease_s + 0.2])

    async def read_late(deliveries: Deliveries, *args: Any) -> list[str] | None:
        found = await read(deliveries, *args)
        await asyncio.sleep(next(late, 0.0))
        return found

    monkeypatch.setattr(Deliveries, "_secrets_of", read_late)
    service = start_service(webhook_timeout_s=0.3)
    in_state(redis, jobs.ended(webhook={"url": receiver.url}), "delivered")
    service.stop()  # the first attempt has ended then
    assert len(receiver.received) == 1


def test_a_receiver_that_fails_at_once_is_left_alone(redis, jobs, start_service):
    with_nobody_there = "http://127.0.0.1:9/hook"  # the discard port, where nothing listens
    start_service(webhook_concurrency=16)
    for _ in range(50):
        jobs.enqueue(webhook={"url": with_nobody_there})
    jobs.end_all()
    (endpoint,) = wait_until(lambda: list(redis.scan_iter(f"{TAG.base}:endpoint:*")))
    wait_until(lambda: redis.hexists(endpoint, "open_until_ms"))
    wait_until(lambda: at_rest(redis))
    assert int(redis.hget(endpoint, "failures")) < 20  # the breaker spared it the others


def test_queues_take_turns(redis, receiver, start_service):
    for model in ("a", "b"):
        redis.hset(keys.models(), model, "{}")
        for _ in range(20):
            entry_id = redis.xadd(Tag(model).outbox, {"job": "x"}).decode()
            fields = {"event": "job.succeeded", "tenant": "t", "body": "{}", "secret": ""}
            url = f"{receiver.url}/{model}"
            call = accept_delivery(
                Tag(model), entry_id, job_id=new_job_id(model), url=url, retention_s=60, **fields
            )
            run(redis, call)
    start_service(webhook_concurrency=1)
    wait_until(lambda: len(receiver.received) == 40)
    first = Counter(request.path[-1] for request in receiver.received[:20])
    assert min(first["a"], first["b"]) >= 8


def test_gone_disables_the_endpoint_until_somebody_replays(redis, redis_url, jobs, receiver, start_service):
    from headrace import Client

    receiver.status = 410
    start_service()
    first = jobs.ended(webhook={"url": receiver.url})
    in_state(redis, first, "disabled")
    second = jobs.ended(webhook={"url": receiver.url})
    in_state(redis, second, "disabled")
    assert len(receiver.received) == 1
    receiver.status = 200
    with Client(redis_url) as client:
        listed = client.admin.deliveries(state=DeliveryState.DISABLED)
        assert {one.job_id for one in listed} == {first, second}
        client.admin.replay_delivery(listed[0].id)
        in_state(redis, listed[0].job_id, "delivered")
        found = client.admin.delivery(listed[0].id)
    assert (found.state, found.last.status) == (DeliveryState.DELIVERED, 200)
    assert receiver.ids() == [receiver.received[0].id, listed[0].id]


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("https://127.0.0.1/h", "not a public address"),
        ("https://[::1]/h", "not a public address"),
        ("https://169.254.169.254/latest", "not a public address"),
        ("https://10.0.0.7/h", "not a public address"),
        ("https://2130706433/h", "not a public address"),
        ("https://0x7f000001/h", "not a public address"),
        ("https://[::ffff:127.0.0.1]/h", "not a public address"),
        ("https://example.com:22/h", "port 22"),
        ("http://example.com/h", "http is only for"),
    ],
)
def test_a_private_receiver_is_refused_and_recorded(redis, jobs, start_service, url, reason):
    start_service(webhook_allow="")
    job_id = jobs.ended(webhook={"url": url})
    refused = in_state(redis, job_id, "refused")
    assert reason in refused["history"][0]["error"]
    assert "status" not in refused["history"][0]


def test_an_entry_nobody_can_read_is_dropped_and_the_next_is_sent(redis, jobs, receiver, start_service):
    redis.xadd(TAG.outbox, {"nonsense": 1})
    redis.xadd(TAG.outbox, {"job": "gone", "event": "job.succeeded", "at_ms": 1})
    jobs.ended(webhook={"url": receiver.url})
    start_service()
    wait_until(lambda: receiver.received)
    wait_until(lambda: redis.xlen(TAG.outbox) == 0)


def test_a_tenant_whose_receivers_all_hang_delays_no_other_tenant(redis, jobs, receiver, start_service):
    never = 60.0
    with ExitStack() as open_:
        silent = [
            open_.enter_context(socket.create_server((f"127.0.0.{n}", 0), backlog=8)) for n in range(2, 42)
        ]
        start_service(webhook_concurrency=16, webhook_timeout_s=never, webhook_allow="127.0.0.0/8")
        for server in silent:
            host, port = server.getsockname()
            jobs.enqueue(webhook={"url": f"http://{host}:{port}/"}, tenant="a")
        jobs.end_all()
        wait_until(lambda: len(list(redis.scan_iter(f"{TAG.base}:sending:*"))) == 12)
        for _ in range(20):
            jobs.ended(webhook={"url": receiver.url}, tenant="b")
        wait_until(lambda: len(receiver.received) == 20, timeout_s=never / 4)


async def test_secrets_of_many_tenants_are_not_all_kept(redis_url, monkeypatch):
    monkeypatch.setattr("headrace.workers.callbacks.deliveries.MOST_SECRETS", 10)
    deliveries = Deliveries(CallbacksSettings(redis_url=redis_url), CallbackMetrics(), tuple, Mock())
    async with connect_async(redis_url) as redis:
        for number in range(100):
            due = DueDelivery(TAG, "id", "1.n", "https://x.example", f"t{number}", b"", "")
            assert await deliveries._secrets_of(redis, due) == []
    assert len(deliveries._secrets) <= 10


async def test_secrets_that_are_out_of_date_are_forgotten(redis_url, monkeypatch):
    monkeypatch.setattr("headrace.workers.callbacks.deliveries.SECRETS_S", 0.0)
    deliveries = Deliveries(CallbacksSettings(redis_url=redis_url), CallbackMetrics(), tuple, Mock())
    async with connect_async(redis_url) as redis:
        for number in range(100):
            due = DueDelivery(TAG, "id", "1.n", "https://x.example", f"t{number}", b"", "")
            await deliveries._secrets_of(redis, due)
    assert len(deliveries._secrets) <= 4
