"""A worker made of the protocol's own scripts: what it does to Redis is what a real one does."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from redis import Redis

from headrace import Client
from headrace.producers.celery.app import make_app
from headrace.producers.celery.task import NAME
from headrace.schemas import keys
from headrace.schemas.events import End, FinishReasonName, JobError, JobState, Output, chunk_payload
from headrace.schemas.keys import Tag
from headrace.schemas.redis.connection import connect
from headrace.schemas.scripts import (
    ClaimedJob,
    ClaimRequest,
    ModelChange,
    ReleaseReason,
    Segment,
    advance,
    cancel,
    claim,
    finish,
    release,
    run,
    upkeep,
)
from headrace.schemas.settings.celery import CelerySettings
from headrace.schemas.settings.queue import QueueSettings

from ..conftest import Ran
from ..support.waiting import wait_until, wait_until_async

MODEL = "m"
FIRST_TOKEN = 1000
"""The token at offset i of every job is this plus i, so that one lost, repeated or changed is seen."""


def tokens(start: int, end: int) -> tuple[int, ...]:
    return tuple(range(FIRST_TOKEN + start, FIRST_TOKEN + end))


@dataclass
class RunningJob:
    """A claimed job, written to by the test."""

    redis: Redis
    tag: Tag
    claimed: ClaimedJob
    offset: int = 0

    @property
    def id(self) -> str:
        return self.claimed.job_id

    def write(self, *chunks: int) -> None:
        """Publish one chunk for each number of tokens."""
        for count in chunks:
            segment = self._segment(self.offset, self.offset + count)
            (answer,) = run(self.redis, advance(self.tag, 60_000, [segment]))
            assert answer.status == "ok"
            self.offset += count

    def write_silently(self, count: int) -> None:
        """As if the publication were lost: the log has the chunk, no subscriber hears of it."""
        segment = self._segment(self.offset, self.offset + count)
        self.offset += count
        self.redis.xadd(self.tag.out(self.id), {"event": segment.payload}, id=f"{self.offset}-0")
        self.redis.hset(self.tag.job(self.id), "offset", self.offset)

    def finish(
        self, state: JobState = JobState.SUCCEEDED, *, tail: str = "", error: JobError | None = None
    ) -> None:
        reason: FinishReasonName = "error" if error else "length"
        end = End(offset=self.offset, end=state, text=tail, finish_reason=reason, error=error)
        output = Output(text=self.text + tail, token_ids=tokens(0, self.offset), finish_reason=reason)
        answer = run(self.redis, finish(self.tag, self._segment(self.offset, self.offset), end, output))
        assert answer.status == "ok"

    @property
    def text(self) -> str:
        return "".join(f"{token} " for token in tokens(0, self.offset))

    def _segment(self, start: int, end: int) -> Segment:
        ids = tokens(start, end)
        payload = chunk_payload(end, [f"{token} " for token in ids], list(ids), None) if ids else ""
        return Segment(self.id, self.claimed.fence, start, end, payload)


@dataclass
class ScriptedWorker:
    """Claims jobs of `MODEL` when the test says so."""

    redis: Redis
    tag: Tag

    def __post_init__(self) -> None:
        self.redis.hset(keys.models(), MODEL, json.dumps({"id": MODEL, "context_tokens": 4096}))

    def start(self, *, fingerprint: str = "") -> RunningJob:
        """Claim the next job, whichever it is."""
        request = ClaimRequest("w", "n", 60_000, 10**9, 1, fingerprint=fingerprint)
        (claimed,) = run(self.redis, claim(self.tag, request)).jobs
        return RunningJob(self.redis, self.tag, claimed, claimed.offset)

    def start_all(self) -> dict[str, RunningJob]:
        """Claim every job there is; by id."""
        reply = run(self.redis, claim(self.tag, ClaimRequest("w", "n", 60_000, 10**9, 1000)))
        return {job.job_id: RunningJob(self.redis, self.tag, job, job.offset) for job in reply.jobs}

    def give_back(self, job: RunningJob) -> None:
        """Hand the job over."""
        segment = job._segment(job.offset, job.offset)
        assert run(self.redis, release(self.tag, segment, ReleaseReason.DRAIN)).status == "ok"

    def change_model(self) -> None:
        """Nobody has the model any more that made the tokens of the jobs that wait."""
        for readers in self.redis.zrange(self.tag.readers, 0, -1):
            self.redis.zadd(self.tag.readers, {readers: 0})
        run(self.redis, upkeep(self.tag, QueueSettings(), model_change=ModelChange("restart")))

    def upkeep(self) -> None:
        run(self.redis, upkeep(self.tag, QueueSettings()))


@pytest.fixture
def worker(redis: Redis) -> Iterator[ScriptedWorker]:
    """A worker on the shared Redis; at the end every job it left is cancelled."""
    worker = ScriptedWorker(redis, Tag(MODEL))
    yield worker
    for key in list(redis.scan_iter(worker.tag.job("*"))):
        job_id = key.decode().rpartition(":job:")[2]
        run(redis, cancel(worker.tag, job_id))
        redis.delete(key, worker.tag.out(job_id), worker.tag.leases)
    redis.delete(worker.tag.retry("standard"))


@pytest.fixture
def client(redis_url: str, worker: ScriptedWorker) -> Iterator[Client]:
    with Client(redis_url) as client:
        yield client


@pytest.fixture
def redis_at() -> Iterator[Callable[[str], Redis]]:
    """Plain connections to any URL."""
    made: list[Redis] = []

    def make(url: str) -> Redis:
        made.append(connect(url))
        return made[-1]

    yield make
    for redis in made:
        redis.close()


@pytest.fixture
def until() -> Callable[..., Any]:
    """Wait for a predicate."""
    return wait_until


@pytest.fixture
def until_async() -> Callable[..., Awaitable[Any]]:
    """`until` for asyncio."""
    return wait_until_async


@pytest.fixture
def cli(cli: Callable[..., Ran]) -> Callable[..., str]:
    """Run a command that ends with `status`; what it printed."""

    def run_cli(*arguments: str, status: int = 0) -> str:
        ran = cli(*arguments)
        assert ran.returncode == status, ran.output
        return ran.output

    return run_cli


async def work(worker: Any) -> None:
    """Answer every job there is, until cancelled; a prompt "fail" fails."""
    while True:
        for running in worker.start_all().values():
            running.write(2)
            if b'"fail"' in (running.claimed.spec or b""):  # a claim leaves out large ones
                running.finish(JobState.FAILED, error=JobError(code="context_length", message="too long"))
            else:
                running.finish()
        await asyncio.sleep(0.01)


@pytest.fixture
async def working(worker: Any) -> Any:
    task = asyncio.create_task(work(worker))
    yield
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
def celery_task(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The task of a Celery app of its own, whose connections are closed at the end."""
    monkeypatch.setenv("HEADRACE_REDIS_URL", redis_url)
    app = make_app(CelerySettings.load())
    task = app.tasks[NAME]
    yield task
    task.client().close()
    app.backend.client.connection_pool.disconnect()  # also that on which it waits for results
    app.close()
