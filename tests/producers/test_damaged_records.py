"""What older workers wrote, and what was damaged from outside, is read or refused in words."""

import json
from contextlib import suppress
from typing import Any

import pytest
from redis import Redis

from headrace import Client, HeadraceError, JobHandle, RecordDamaged

NAN = {"token_id": 0, "token": "a", "logprob": None, "top": [[0, "a", None]]}

END = json.dumps({"offset": 2, "end": "succeeded", "finish_reason": "stop"})


@pytest.fixture
def ended(client: Client, worker: Any) -> JobHandle:
    job = client.enqueue("x", model="m")
    running = worker.start()
    running.write(2)
    running.finish()
    return job


@pytest.fixture
def key(worker: Any, ended: JobHandle) -> str:
    return str(worker.tag.job(ended.id))


def test_log_probabilities_that_an_older_worker_could_not_write_are_the_least(
    redis: Redis, worker: Any, ended: JobHandle, key: str
) -> None:
    result = json.loads(redis.hget(key, "result")) | {"logprobs": [NAN, NAN]}
    redis.hset(key, "result", json.dumps(result))
    assert [(entry.logprob, entry.top[0][2]) for entry in ended.result().logprobs] == [(-9999.0, -9999.0)] * 2
    log = worker.tag.out(ended.id)
    redis.delete(log)
    chunk = {"offset": 2, "text": "ab", "token_ids": [1, 2], "logprobs": [NAN, NAN]}
    redis.xadd(log, {"event": json.dumps(chunk)}, id="2-0")
    redis.xadd(
        log, {"event": json.dumps({"offset": 2, "end": "succeeded", "finish_reason": "stop"})}, id="2-1"
    )
    assert [entry.logprob for chunk in ended.stream() for entry in chunk.logprobs or ()] == [-9999.0] * 2


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("result", "{"),
        ("result", "7"),
        ("result", json.dumps({"finish_reason": "stop", "token_ids": ["x"]})),
        ("result", b"\xff"),
        ("result", None),
        ("state", "elsewhere"),
        ("attempts", "many"),
        ("enqueued_ms", None),
        ("error", "no JSON"),
    ],
)
def test_a_damaged_record_is_an_error_of_headraces_own(
    redis: Redis, ended: JobHandle, key: str, field: str, value: Any
) -> None:
    if value is None:
        redis.hdel(key, field)
    else:
        redis.hset(key, field, value)
    with pytest.raises(RecordDamaged, match=f"the record of job {ended.id} in Redis can't be read"):
        ended.result()
    with suppress(HeadraceError):
        ended.status()


@pytest.mark.parametrize("event", ["{", "7", "{}", json.dumps({"offset": "x", "text": "a"}), b"\xff"])
def test_a_damaged_log_is_an_error_of_headraces_own(
    redis: Redis, worker: Any, ended: JobHandle, event: Any
) -> None:
    log = worker.tag.out(ended.id)
    redis.delete(log)
    redis.xadd(log, {"event": event}, id="2-0")
    redis.xadd(
        log, {"event": json.dumps({"offset": 2, "end": "succeeded", "finish_reason": "stop"})}, id="2-1"
    )
    with pytest.raises(RecordDamaged):
        list(ended.stream(timeout_s=5))


def test_a_record_whose_spec_was_damaged_has_no_status(redis: Redis, ended: JobHandle, key: str) -> None:
    redis.hset(key, "spec", "[]")
    with pytest.raises(RecordDamaged):
        ended.status()
