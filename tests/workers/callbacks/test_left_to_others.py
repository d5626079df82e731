"""Outbox entries that are for another process than the one that comes by."""

import json

from redis import Redis

from headrace.schemas.job import SCHEMA_VERSION
from headrace.workers.callbacks import relay

from .conftest import TAG, Jobs, Receiver, wait_until


def test_what_follows_from_a_newer_job_waits_for_a_newer_process_and_holds_up_no_other(
    redis: Redis, jobs: Jobs, receiver: Receiver, start_service, monkeypatch
):
    told = {"webhook": {"url": receiver.url}}
    newer, known = jobs.ended(**told), jobs.ended(**told)
    spec = json.loads(redis.hget(TAG.job(newer), "spec")) | {"v": SCHEMA_VERSION + 1}
    unread = json.dumps(spec | {"from_the_future": 1})
    redis.hset(TAG.job(newer), mapping={"v": SCHEMA_VERSION + 1, "spec": unread})
    old = start_service(relay_s=0.5)
    wait_until(lambda: receiver.received)
    old.stop()
    assert [request.event["data"]["job_id"] for request in receiver.received] == [known]

    monkeypatch.setattr(relay, "SCHEMA_VERSION", SCHEMA_VERSION + 1)
    redis.hset(TAG.job(newer), "spec", json.dumps(spec))
    start_service(relay_s=600)  # which waits for nothing: it was left to whoever comes by
    wait_until(lambda: not redis.xlen(TAG.outbox))
    wait_until(lambda: len(receiver.received) == 2)
    assert receiver.received[1].event["data"]["job_id"] == newer
