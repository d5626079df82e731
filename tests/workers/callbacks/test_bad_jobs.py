"""One job that nobody can make sense of stops nothing that follows from the others."""

import json
from typing import Any

import pytest
from redis import Redis
from structlog.testing import capture_logs

from headrace import InvalidJob, Job
from headrace.schemas.events import JobState
from headrace.schemas.record import Record
from headrace.schemas.wire import WireJob
from headrace.workers.callbacks.completion import _outcome
from headrace.workers.callbacks.relay import Relay

from ...support.waiting import wait_until
from .conftest import TAG, Jobs, Receiver

MESSAGE: dict[str, Any] = {
    "headers": {"id": "task-1", "task": "headrace.generate"},
    "embed": {},
    "properties": {},
}


def change_spec(redis: Redis, job_id: str, **fields: object) -> None:
    """Damage a job from outside."""
    spec = json.loads(redis.hget(TAG.job(job_id), "spec"))
    redis.hset(TAG.job(job_id), "spec", json.dumps(spec | fields))


@pytest.mark.parametrize("message", ["garbage", "[]", "{}", json.dumps(MESSAGE | {"embed": None}), "null"])
def test_what_is_no_task_message_is_refused_by_its_field(message):
    with pytest.raises(InvalidJob, match=r"^celery: must be the JSON of a task's message"):
        WireJob.make(model="demo", prompt="x", celery=message)


@pytest.mark.parametrize("embed", [{"callbacks": [{"task": "t"}]}, {"errbacks": 7}], ids=str)
def test_a_task_that_can_not_be_read_is_dropped_and_its_jobs_webhook_is_sent(
    redis, jobs: Jobs, receiver: Receiver, start_service, embed
):
    bad = jobs.ended(webhook={"url": receiver.url}, celery=json.dumps(MESSAGE | {"embed": embed}))
    with capture_logs() as logs:
        start_service()
        wait_until(lambda: receiver.received and not redis.xlen(TAG.outbox))
    assert {line["job"] for line in logs if line["event"] == "task_dropped"} == {bad}
    assert [request.event["data"]["job_id"] for request in receiver.received] == [bad]


def test_a_task_message_that_is_none_is_dropped_and_the_next_job_is_told_of(
    redis, jobs: Jobs, receiver: Receiver, start_service
):
    bad = jobs.ended(celery=json.dumps(MESSAGE))
    change_spec(redis, bad, celery="garbage")
    good = jobs.ended(webhook={"url": receiver.url})
    start_service()
    wait_until(lambda: receiver.received and not redis.xlen(TAG.outbox))
    assert [request.event["data"]["job_id"] for request in receiver.received] == [good]


def test_of_a_job_whose_result_is_damaged_the_end_is_told(redis, jobs: Jobs, receiver, start_service):
    job_id = jobs.ended(webhook={"url": receiver.url})
    redis.hset(TAG.job(job_id), "result", "garbage")
    start_service()
    wait_until(lambda: receiver.received)
    (request,) = receiver.received
    assert (request.event["type"], request.event["data"]["state"]) == ("job.succeeded", "succeeded")


def test_a_task_whose_result_is_damaged_fails_and_says_why():
    record = Record("j", {"state": JobState.SUCCEEDED, "result": "garbage"})
    with pytest.raises(Exception, match=r"job j failed .*its stored result can't be read"):
        _outcome(record)


def test_an_error_that_nobody_foresaw_leaves_its_entry_and_holds_up_no_other(
    redis, jobs: Jobs, receiver, start_service, monkeypatch
):
    bad, good = (jobs.ended(webhook={"url": receiver.url}) for _ in range(2))
    deliver = Relay._deliver

    def breaking(self: Relay, entry_id: str, event: Any, at_ms: int, job: Job, record: Record, **more: Any):
        assert record.job_id != bad, "a defect"
        deliver(self, entry_id, event, at_ms, job, record, **more)

    monkeypatch.setattr(Relay, "_deliver", breaking)
    start_service()
    wait_until(lambda: receiver.received)
    assert [request.event["data"]["job_id"] for request in receiver.received] == [good]
    assert redis.xlen(TAG.outbox) == 1
