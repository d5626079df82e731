"""Whatever a job's record or a line of a batch file holds: no process ends, no task of others is sent, no
secret is quoted, and who stands beside it gets exactly what was asked for."""

import asyncio
import json
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from redis import Redis
from structlog.testing import capture_logs

from headrace import AsyncClient, JobHandle
from headrace.producers.batch import BatchRun
from headrace.producers.batch_lines import parse_line
from headrace.producers.celery.app import make_app
from headrace.producers.celery.task import generate  # noqa: F401 (a task of every app)
from headrace.schemas import keys
from headrace.schemas.errors import InvalidJob
from headrace.schemas.events import JobState
from headrace.schemas.settings.celery import CelerySettings
from headrace.workers.callbacks.metrics import CallbackMetrics
from headrace.workers.callbacks.run import INTERNAL_ERROR
from headrace.workers.callbacks.service import Service
from headrace.workers.settings import CallbacksSettings

from ..support.waiting import wait_until
from .conftest import WorkerProcess
from .hostile import FOLLOWER, KEY, SECRET, TAG, Case, Fuzzer

pytestmark = [
    pytest.mark.serial,
    pytest.mark.leaves_jobs,
    pytest.mark.filterwarnings("ignore:Call to deprecated setex"),
    pytest.mark.filterwarnings(f"ignore:{INTERNAL_ERROR}:RuntimeWarning"),
]

TERMINAL = {state.value.encode() for state in JobState if state.terminal}

MOST_AT_ONCE = 500
"""Cases that are in the queue together."""

GOOD = {"prompt": "A tuple is", "model": "demo", "max_tokens": 12, "ignore_eos": True, "temperature": 0.0}


@pytest.fixture
def app(redis_url: str) -> Iterator[Celery]:
    """An app whose messages stay in the broker."""
    found = make_app(CelerySettings(redis_url=redis_url))
    found.conf.result_expires = 600
    found.finalize()
    yield found
    found.control.purge()
    found.backend.client.connection_pool.disconnect()
    found.close()


@pytest.fixture
def service(app: Celery, redis_url: str, redis: Redis) -> Iterator[Service]:
    """`headrace callbacks`, without the Celery worker around it."""
    redis.set(keys.celery_key(), KEY)
    failed: list[bool] = []
    settings = CallbacksSettings(redis_url=redis_url, relay_s=0.5, webhook_timeout_s=1.0)
    started = Service(settings, app, CallbackMetrics(), lambda: failed.append(True))
    with capture_logs():
        started.start()
        yield started
        started.stop()
    assert not failed, "a thread of callbacks ended"


def put(redis: Redis, cases: list[Case]) -> None:
    """All of them in one transaction, so that nobody claims one before its record is changed."""
    with redis.pipeline(transaction=True) as pipe:
        for case in cases:
            pipe.execute_command(*case.call.by_source)
            for command in case.changes:
                pipe.execute_command(*command)
        pipe.execute(raise_on_error=False)


def clear(redis: Redis, cases: list[Case]) -> None:
    """Take away what rightly waits: for a newer worker, for a time far off, for somebody to look at."""
    for case in cases:
        redis.delete(TAG.job(case.job_id), TAG.out(case.job_id), *(lanes(case)))
        for index in (TAG.leases, TAG.delayed, TAG.deadlines):
            redis.zrem(index, case.job_id)
        for job_class in ("interactive", "standard", "batch"):
            redis.zrem(TAG.backlog(job_class), case.tenant)
    for job_class in ("interactive", "standard", "batch"):
        redis.delete(TAG.retry(job_class), TAG.suspects(job_class))
    redis.delete(TAG.dead)


def lanes(case: Case) -> list[str]:
    return [TAG.lane(job_class, case.tenant) for job_class in ("interactive", "standard", "batch")]


def told(redis: Redis) -> Iterator[str]:
    """All that is said of jobs, to whoever may ask."""
    for key in redis.scan_iter(f"{TAG.base}:job:*", count=1000, _type="hash"):
        for value in redis.hmget(key, "error", "result"):
            yield (value or b"").decode(errors="replace")
    for key in redis.scan_iter("*celery-task-meta-*", count=1000):
        yield (redis.get(key) or b"").decode(errors="replace")
    for key in redis.scan_iter(f"{TAG.base}:delivery:*", count=1000):
        yield (redis.hget(key, "history") or b"").decode(errors="replace")


def unanswered(redis: Redis, cases: list[Case]) -> Iterator[tuple[Any, ...]]:
    """Cases that have no end and are no dead letters, or that failed for no reason."""
    buried = {fields[b"job"].decode() for _, fields in redis.xrange(TAG.dead)}
    for case in cases:
        if case.job_id in buried:
            continue
        if redis.type(TAG.job(case.job_id)) != b"hash":
            if not any(
                "retention_ms" in change for change in case.changes
            ):  # else it was kept as long as it said
                yield case.job_id, case.changes, "lost"
            continue
        state, error = redis.hmget(TAG.job(case.job_id), "state", "error")
        if state not in TERMINAL or (state == b"failed" and not error):
            yield case.job_id, case.changes, state


def sent(redis: Redis) -> set[str]:
    """The tasks in the broker."""
    found = set()
    for key in redis.scan_iter("hr:celery:*", count=1000, _type="list"):
        found |= {json.loads(message)["headers"]["task"] for message in redis.lrange(key, 0, -1)}
    return found


def attack(worker: WorkerProcess, redis: Redis, fuzzer: Fuzzer, count: int) -> None:
    """So many cases, with good jobs among them, which must be as if they were alone."""
    at_once = min(count, MOST_AT_ONCE)
    alone = worker.client.enqueue(**GOOD).result(timeout_s=60).token_ids
    engines = {found.id for found in worker.client.workers()}
    for _ in range(0, count, at_once):
        cases = [fuzzer.case() for _ in range(at_once)]
        good: list[JobHandle] = []
        for part in range(0, at_once, 10):
            put(redis, cases[part : part + 10])
            good.append(worker.client.enqueue(**GOOD))
        for job in good:
            result = job.result(timeout_s=120)
            assert result.token_ids == alone
            assert result.attempts == 0
        wait_until(lambda: not redis.zcard(TAG.leases))
        assert sent(redis) <= {FOLLOWER}
        clear(redis, cases)
    assert (
        worker.events("engine_died") + worker.events("engine_wedged") + worker.events("engine_killed") == []
    )
    assert {found.id for found in worker.client.workers()} == engines
    wait_until(lambda: not redis.xlen(TAG.outbox))
    assert sent(redis) <= {FOLLOWER}
    assert not [text for text in told(redis) if SECRET in text]
    assert SECRET not in worker.log.read_text()


@pytest.mark.parametrize(
    ("seed", "count"),
    [(1, 200), pytest.param(None, 10_000, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])],
)
@pytest.mark.timeout(600)
def test_no_record_of_a_job_harms_anybody(
    redis_url: str,
    redis: Redis,
    start_worker: Callable[..., WorkerProcess],
    service: Service,
    seed: int,
    count: int,
) -> None:
    with capture_logs() as logs:
        attack(start_worker(redis_url, options={"lease_s": 5}), redis, Fuzzer(seed or 2), count)
        assert SECRET not in str(logs)


def test_each_damaged_record_ends_with_a_reason_or_is_a_dead_letter(
    redis_url: str, redis: Redis, start_worker: Callable[..., WorkerProcess]
) -> None:
    worker, fuzzer = start_worker(redis_url, options={"lease_s": 5}), Fuzzer(1)
    cases = [fuzzer.case() for _ in range(200)]
    for part in range(0, len(cases), 10):
        put(redis, cases[part : part + 10])
    good = worker.client.enqueue(**GOOD)
    assert good.result(timeout_s=120).attempts == 0
    wait_until(lambda: not list(unanswered(redis, cases)))
    assert [line for line in worker.lines if line["level"] == "error"] == []
    assert len(worker.events("engine_ready")) == 1
    clear(redis, cases)


@pytest.mark.parametrize("seed", range(2))
def test_every_line_of_ten_thousand_is_a_job_or_refused_by_name(seed: int) -> None:
    fuzzer = Fuzzer(seed)
    for number in range(5_000):
        line = parse_line(number, fuzzer.line(), {"model": "demo"}, "file")
        if isinstance(line.job, InvalidJob):
            assert line.job.field
            assert SECRET not in str(line.job)
            assert len(str(line.job)) < 500


def test_a_file_of_hostile_lines_is_answered_line_by_line(
    redis_url: str, start_worker: Callable[..., WorkerProcess], tmp_path: Path
) -> None:
    worker, fuzzer, count = start_worker(redis_url), Fuzzer(3), 200
    requests, responses = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    good = json.dumps({"custom_id": "good", **GOOD}).encode()
    lines = [line for line in islice(iter(fuzzer.line, None), count) if line.strip()]
    requests.write_bytes(b"\n".join([*lines, good]) + b"\n")

    async def run() -> Any:
        async with AsyncClient(redis_url) as client:
            return await BatchRun(client, requests, responses, {"model": "demo"}, 50, lambda _: None).run()

    tally = asyncio.run(run())
    answers = [json.loads(text) for text in responses.read_bytes().splitlines()]
    assert tally.done == len(answers) == len(lines) + 1
    assert {answer["custom_id"]: answer for answer in answers}["good"]["error"] is None
    errors = json.dumps([answer["error"] for answer in answers])
    assert SECRET not in errors
    assert worker.events("engine_died") == []
