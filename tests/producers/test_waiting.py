"""Who waits for a job is told why, within two seconds."""

import asyncio
import logging
import threading
import time
from collections.abc import Callable

import pytest
from redis import Redis

from headrace import AsyncClient, Client, ResultTimeout
from headrace.producers.waiting import WaitReason, explain
from headrace.schemas.scripts import drain, heartbeat, run

from .conftest import MODEL, ScriptedWorker


@pytest.fixture
def alive(redis: Redis, worker: ScriptedWorker) -> Callable[..., None]:
    """Have a worker say that it lives, with these facts."""

    def say(name: str = "w", **facts: str | int) -> None:
        run(redis, heartbeat(worker.tag, name, {"pages_free": 1} | facts))

    return say


def reason_of(client: Client, job_id: str) -> tuple[WaitReason, str]:
    found = client._run(explain(client._operations, job_id))
    assert found is not None
    return found.reason, found.text


def test_nobody_serves_the_model(client: Client) -> None:
    job = client.enqueue("x", model=MODEL)
    text = "no worker serves model 'm' now; start one: headrace worker --model m"
    assert reason_of(client, job.id) == (WaitReason.NO_WORKER, text)
    with pytest.raises(ResultTimeout, match=rf"within 0.2 s: {text}") as caught:
        job.result(timeout_s=0.2)
    assert caught.value.why == text
    with pytest.raises(ResultTimeout, match=text):
        list(job.stream(timeout_s=0.2))


def test_the_last_worker_died_a_while_ago(client: Client, redis: Redis, worker, alive) -> None:
    alive()
    redis.zincrby(worker.tag.workers, -42_000, "w")
    reason, text = reason_of(client, client.enqueue("x", model=MODEL).id)
    assert (reason, "the last one was heard from 42 s ago" in text) == (WaitReason.NO_WORKER, True)


def test_jobs_are_in_front(client: Client, alive) -> None:
    alive()
    for _ in range(3):
        client.enqueue("x", model=MODEL, tenant="t")
    client.enqueue("x", model=MODEL, tenant="u", job_class="interactive")
    job = client.enqueue("x", model=MODEL, tenant="t")
    reason, text = reason_of(client, job.id)
    assert reason is WaitReason.QUEUE
    assert text.startswith("it is queued behind 3 jobs of tenant 't' in class standard and more urgent")
    assert text.endswith(" urgent ones of 1 tenant; 0 jobs run on 1 worker")


def test_the_tenant_is_at_its_limit(client: Client, worker, alive) -> None:
    alive()
    client.admin.set_tenant("t", max_running=1)
    client.enqueue("x", model=MODEL, tenant="t")
    running = worker.start()
    job = client.enqueue("x", model=MODEL, tenant="t")
    reason, text = reason_of(client, job.id)
    assert reason is WaitReason.TENANT_LIMIT
    assert text == "tenant 't' has 1 job running and may have 1 (headrace tenants show t)"
    running.finish()
    client.admin.drop_tenant("t")


def test_the_class_is_not_served_and_then_its_workers_are_drained(
    client: Client, redis, worker, alive
) -> None:
    alive(classes="interactive")
    job = client.enqueue("x", model=MODEL)
    assert reason_of(client, job.id)[0] is WaitReason.CLASS_NOT_SERVED
    alive("v", classes="standard")
    run(redis, drain(worker.tag, "v", 0))
    assert reason_of(client, job.id)[0] is WaitReason.DRAINING


def test_a_job_was_asked_to_wait_runs_and_outlives_its_worker(
    client: Client, redis: Redis, worker: ScriptedWorker, alive
) -> None:
    alive()
    delayed = client.enqueue("x", model=MODEL, delay_s=90)
    assert reason_of(client, delayed.id) == (WaitReason.DELAYED, "it was asked to wait another 90 s")
    job = client.enqueue("x", model=MODEL)
    running = worker.start()
    running.write(3)
    assert reason_of(client, job.id) == (WaitReason.RUNNING, "it runs on w and has 3 tokens")
    redis.zincrby(worker.tag.workers, -60_000, "w")
    reason, text = reason_of(client, job.id)
    assert reason is WaitReason.WORKER_SILENT
    assert text == "its worker w is silent; the job resumes at token 3 on another, but there is none now"
    running.finish()
    assert reason_of(client, job.id)[0] is WaitReason.ENDED


def test_a_job_with_tokens_of_a_model_that_nobody_has(client: Client, worker: ScriptedWorker, alive) -> None:
    job = client.enqueue("x", model=MODEL)
    running = worker.start(fingerprint="ab12")
    running.write(2)
    worker.give_back(running)
    alive(fingerprint="cd34")
    assert reason_of(client, job.id)[0] is WaitReason.OTHER_MODEL
    worker.redis.delete(worker.tag.retry("standard:ab12"))


def test_what_is_not_known_is_not_explained(client: Client, redis: Redis, worker: ScriptedWorker) -> None:
    job = client.enqueue("x", model=MODEL)
    redis.hset(worker.tag.job(job.id), "class", "none")
    assert client._run(explain(client._operations, job.id)) is None
    redis.delete(worker.tag.job(job.id))
    assert client._run(explain(client._operations, job.id)) is None


@pytest.mark.parametrize("policy", ["7", "[]", '{"max_running": []}', "{"])
def test_a_damaged_policy_does_not_turn_a_timeout_into_another_error(
    client: Client, redis: Redis, worker: ScriptedWorker, policy: str
) -> None:
    redis.hset(worker.tag.tenants, "*", policy)
    with pytest.raises(ResultTimeout, match=r"not ended within 0.1 s"):
        client.enqueue("x", model=MODEL).result(timeout_s=0.1)


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if record.name == "headrace"]


def test_the_log_says_it_within_two_seconds_and_once_a_job(
    client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    job = client.enqueue("x", model=MODEL)
    started = time.monotonic()
    with pytest.raises(ResultTimeout):
        job.result(timeout_s=1.9)
    assert time.monotonic() - started < 4
    with pytest.raises(ResultTimeout):
        list(job.stream(timeout_s=1.6))
    assert lines(caplog) == [
        f"job {job.id} waits: no worker serves model 'm' now; start one: headrace worker --model m"
    ]
    assert caplog.records[-1].levelno == logging.WARNING


async def test_of_many_jobs_that_wait_a_few_lines_tell(
    redis_url: str, worker: ScriptedWorker, caplog: pytest.LogCaptureFixture
) -> None:
    async with AsyncClient(redis_url) as client:
        jobs = await client.enqueue_many([{"prompt": "x", "model": MODEL}] * 50)
        reads = [job.result(timeout_s=1.8) for job in jobs]
        results = await asyncio.gather(*reads, return_exceptions=True)
    assert all(isinstance(result, ResultTimeout) for result in results)
    assert len(lines(caplog)) == 10


def test_a_job_that_runs_is_no_reason_to_warn(
    client: Client, worker: ScriptedWorker, caplog: pytest.LogCaptureFixture
) -> None:
    job = client.enqueue("x", model=MODEL)
    running = worker.start()
    with pytest.raises(ResultTimeout, match="its worker w is silent"):
        job.result(timeout_s=1.7)
    running.finish()
    assert lines(caplog) == []


def test_the_status_of_a_job_that_waits_says_why(client: Client, cli: Callable[..., str], alive) -> None:
    job = client.enqueue("x", model=MODEL)
    assert f"waits        {reason_of(client, job.id)[1]}\n" in cli("status", job.id)
    alive()
    assert "waits        it is next in the queue of tenant 'default' in class standard; 0 jobs run" in cli(
        "status", job.id
    )
    job.cancel()
    assert "waits" not in cli("status", job.id)


def test_the_command_line_says_it_on_stderr(
    client: Client, cli: Callable[..., str], until: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    job = client.enqueue("x", model=MODEL)

    def cancel_once_told() -> None:
        until(lambda: lines(caplog))
        job.cancel()

    canceller = threading.Thread(target=cancel_once_told)
    canceller.start()
    output = cli("tail", job.id, status=5)
    canceller.join()
    assert f"headrace: job {job.id} waits: no worker serves model 'm' now" in output
    assert len(output.splitlines()) == 2


async def test_both_handles_say_what_a_job_waits_for(redis_url):
    with Client(redis_url, check_model=False) as client:
        job = client.enqueue("Once", model="nobodys")
        assert "no worker serves model 'nobodys'" in (job.waits_for() or "")
        async with AsyncClient(redis_url) as other:
            assert await other.job(job.id).waits_for() == job.waits_for()
        job.cancel()
        assert job.waits_for() == "it has ended (cancelled)"
