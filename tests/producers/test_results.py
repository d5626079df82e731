import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from redis import Redis

from headrace import Client, JobCancelled, JobFailed, JobResult, ResultTimeout
from headrace.producers import reading
from headrace.schemas.events import JobError, JobState


def commands(redis: Redis) -> int:
    return int(redis.info("stats")["total_commands_processed"])


def test_a_result_has_the_output_and_what_became_of_the_job(client: Client, worker: Any) -> None:
    job = client.enqueue("x", model="m", metadata={"k": "v"})
    running = worker.start()
    running.write(2, 1)
    running.finish(tail="!")
    result = job.result(timeout_s=5)
    assert result.text == running.text + "!"
    assert result.token_ids == (1000, 1001, 1002)
    assert (result.finish_reason, result.state, result.worker) == ("length", "succeeded", "w")
    assert result.timings.total_s is not None
    status = job.status()
    assert (status.state, status.offset, status.metadata) == ("succeeded", 3, {"k": "v"})


def test_a_result_is_waited_for_without_polling(
    client: Client, redis: Redis, worker: Any, until: Callable[..., None]
) -> None:
    job = client.enqueue("x", model="m")
    running = worker.start()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(job.result, timeout_s=30)
        until(lambda: dict(redis.pubsub_numsub(worker.tag.chan(job.id)))[worker.tag.chan(job.id).encode()])
        before = commands(redis)
        ending = threading.Timer(1.5, running.finish)
        ending.start()
        assert isinstance(waiting.result(timeout=10), JobResult)
        ending.join()
        assert commands(redis) - before < 50  # most are those of the script `finish`


def test_a_result_that_is_late_times_out_and_the_job_goes_on(client: Client, worker: Any) -> None:
    job = client.enqueue("x", model="m")
    started = time.monotonic()
    with pytest.raises(ResultTimeout, match=r"within 0\.2 s"):
        job.result(timeout_s=0.2)
    assert 0.2 <= time.monotonic() - started < 2
    with pytest.raises(TimeoutError):
        job.result(timeout_s=0)
    worker.start().finish()
    assert job.result(timeout_s=0).state == "succeeded"


def test_a_failure_is_raised_with_its_reason(client: Client, worker: Any) -> None:
    job = client.enqueue("x", model="m")
    worker.start().finish(JobState.FAILED, error=JobError(code="context_length", message="too long by 3"))
    with pytest.raises(JobFailed, match=r"context_length.*too long by 3"):
        job.result()
    status = job.status()
    assert status.error is not None
    assert status.error.code == "context_length"


def test_a_cancelled_job_ends_the_wait(client: Client, worker: Any) -> None:
    job = client.enqueue("x", model="m")
    timer = threading.Timer(0.1, job.cancel)
    timer.start()
    with pytest.raises(JobCancelled):
        job.result(timeout_s=10)
    timer.join()


def test_cancelling_a_running_job_asks_its_worker(client: Client, worker: Any) -> None:
    job = client.enqueue("x", model="m")
    running = worker.start()
    assert job.cancel() == "cancelling"
    running.finish(JobState.CANCELLED)
    assert job.cancel() == "already"


def test_an_end_that_was_not_heard_of_is_found(
    client: Client, redis: Redis, worker: Any, monkeypatch: pytest.MonkeyPatch, until: Callable[..., None]
) -> None:
    monkeypatch.setattr(reading, "SILENCE_S", 0.2)
    job = client.enqueue("x", model="m")
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(job.result, timeout_s=30)
        until(lambda: redis.client_list(_type="pubsub"))
        redis.hset(
            worker.tag.job(job.id),
            mapping={"state": "succeeded", "result": '{"text": "silent", "finish_reason": "stop"}'},
        )
        assert waiting.result(timeout=10).text == "silent"


def test_many_threads_share_a_client(client: Client, worker: Any) -> None:
    def one(number: int) -> str:
        return client.enqueue(f"p{number}", model="m").result(timeout_s=60).job_id

    with ThreadPoolExecutor(32) as pool:
        waiting = [pool.submit(one, number) for number in range(32)]
        finished = 0
        while finished < 32:
            for running in worker.start_all().values():
                running.write(1)
                running.finish()
                finished += 1
        assert len({result.result(timeout=30) for result in waiting}) == 32
