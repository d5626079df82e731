"""What one tenant sends, however large, long or damaged, is felt by nobody beside it."""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from redis import Redis

from headrace import Client, JobFailed, JobHandle
from headrace.schemas.events import JobState, chunk_payload
from headrace.schemas.keys import tag_of
from headrace.schemas.scripts import (
    AdvanceStatus,
    ClaimRequest,
    ReleaseReason,
    Segment,
    advance,
    claim,
    release,
    run,
)
from headrace.workers.engine_process.intake import token_log
from headrace.workers.engine_process.text import TextStream, Tokenizer
from headrace.workers.models import resolve_model

from ..chaos.attacks import Site, Tenant, broken_records
from ..support.waiting import wait_until
from .conftest import Uninterrupted, WorkerProcess, assert_whole, leaked_keys
from .reply_proxy import ReplyProxy

pytestmark = [pytest.mark.serial, pytest.mark.timeout(600)]

LARGE_PROMPTS: Sequence[dict[str, object]] = [
    {"prompt": "\n        return" * (2**20 // 15)},
    {"prompt_token_ids": [5] * 500_000},
    {"prompt_token_ids": [6] * 1_000_000},
] * 8
END_S = 400


def without_a_bound(whole: Path, folder: Path) -> Path:
    """The model with a token that eats the spaces before it.

    How many tokens a text has at least can't be told from its bytes then: it has to be tokenised.
    """
    model = folder / "model"
    shutil.copytree(whole, model)
    path = model / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    tokenizer["added_tokens"][-1]["lstrip"] = True
    path.write_text(json.dumps(tokenizer))
    return model


def assert_nothing_was_felt(worker: WorkerProcess, redis: Redis, jobs: Sequence[JobHandle]) -> None:
    """No worker of these jobs was taken for dead, no engine process ended, and nothing is called an error."""
    records = [redis.hmget(tag_of(job.id).job(job.id), "attempts", "history") for job in jobs]
    assert [(int(attempts or 0), history) for attempts, history in records] == [(0, None)] * len(jobs)
    assert len(worker.events("engine_ready")) == 1
    assert [line for line in worker.lines if line["level"] == "error"] == []
    assert worker.events("job_lost") == []
    assert leaked_keys(redis) == []


def test_large_prompts_of_one_tenant_hold_up_no_stream_and_no_lease(
    redis_url: str,
    redis: Redis,
    start_worker: Callable[..., WorkerProcess],
    expected_tokens: Uninterrupted,
    model: Path,
    tmp_path: Path,
) -> None:
    unbounded = without_a_bound(model, tmp_path)
    worker = start_worker(redis_url, options={"model": str(unbounded), "served_name": "demo"})
    client, stream_of = worker.client, {"model": "demo", "ignore_eos": True, "temperature": 0.0}
    before = {**stream_of, "prompt": "A generator is", "max_tokens": 1900}
    meanwhile = {**stream_of, "prompt": "A list is", "max_tokens": 60}

    running = client.enqueue(**before)
    chunks = running.stream()
    tokens = list(next(chunks).token_ids)
    large = [
        client.enqueue(**prompt, model="demo", tenant="mallory", job_class="batch")
        for prompt in LARGE_PROMPTS
    ]
    wait_until(lambda: any(job.status().state == "running" for job in large))
    late = client.enqueue(**meanwhile)
    late_result = late.result(timeout_s=END_S)
    unread = [job for job in large if not job.status().state.terminal]
    for chunk in chunks:
        tokens += chunk.token_ids
    assert unread, "the stream that came behind the large prompts ended behind them too"

    for job in large:
        with pytest.raises(JobFailed, match=r"the prompt has \d+ tokens; demo takes at most 2048") as failed:
            job.result(timeout_s=END_S)
        assert failed.value.reason == "context_length"
    assert [tokens, list(late_result.token_ids)] == expected_tokens.of_each([before, meanwhile])
    assert_nothing_was_felt(worker, redis, [running, late, *large])


LONG_TOKENS, LOGGED_TOKENS = 1900, 1850
KINDS = 8
"""Of long jobs; those of one kind have the same tokens."""
REPLY_BYTES = 2 * token_log.PAGE_BYTES
"""The size of the next page of a log is told from the last one's entries."""


def long_job(number: int) -> dict[str, object]:
    """A job with a long log; those of one kind have log probabilities, and logs that are longer by far."""
    kind = number % KINDS
    wanted = {"prompt": f"Item {kind} is", "model": "demo", "max_tokens": LONG_TOKENS, "seed": kind}
    return {**wanted, "ignore_eos": True, "logprobs": 0 if kind else 20}


def _payloads(tokenizer: Tokenizer, tokens: Sequence[int], top: int) -> list[str]:
    """The chunks of a log, a token each, with so many alternatives of each token."""
    pieces = TextStream(tokenizer).take(tokens[:LOGGED_TOKENS])[0]
    return [
        chunk_payload(
            at + 1,
            [text],
            [token],
            [{"token_id": token, "token": "é", "logprob": -1.5, "top": [[token, "é", -1.5]] * top}],
        )
        for at, (token, text) in enumerate(zip(tokens, pieces, strict=False))
    ]


def write_logs(redis: Redis, jobs: Sequence[JobHandle], tokens: Sequence[Sequence[int]]) -> None:
    """Be a worker that claims these jobs, generates most of their tokens, and gives them back."""
    tag, lease_ms = tag_of(jobs[0].id), 600_000
    request = ClaimRequest("ghost", "n", lease_ms, budget_tokens=10**9, slots=len(jobs))
    fences = {claimed.job_id: claimed.fence for claimed in run(redis, claim(tag, request)).jobs}
    tokenizer = Tokenizer(resolve_model("demo"))
    payloads = [_payloads(tokenizer, tokens[kind], 0 if kind else 20) for kind in range(KINDS)]

    def segment(number: int, at: int) -> Segment:
        job_id = jobs[number].id
        return Segment(job_id, fences[job_id], at, at + 1, payloads[number % KINDS][at])

    for at in range(LOGGED_TOKENS):
        answers = run(redis, advance(tag, lease_ms, [segment(number, at) for number in range(len(jobs))]))
        assert {answer.status for answer in answers} == {AdvanceStatus.OK}
    for job in jobs:
        nothing = Segment(job.id, fences[job.id], LOGGED_TOKENS, LOGGED_TOKENS)
        assert run(redis, release(tag, nothing, ReleaseReason.DRAIN)).status is AdvanceStatus.OK


@pytest.mark.parametrize("count", [16, pytest.param(64, marks=pytest.mark.slow)])
def test_a_worker_that_resumes_long_logs_all_at_once_holds_up_neither_redis_nor_its_leases(
    redis_url: str,
    redis: Redis,
    start_worker: Callable[..., WorkerProcess],
    expected_tokens: Uninterrupted,
    count: int,
) -> None:
    requests = [long_job(number) for number in range(count)]
    expected = expected_tokens.of_each(requests)
    with Client(redis_url, check_model=False) as client, ReplyProxy(redis_url) as proxy:
        jobs = client.enqueue_many(requests)
        write_logs(redis, jobs, expected)
        worker = start_worker(proxy.url)
        records = [tag_of(job.id).job(job.id) for job in jobs]
        wait_until(lambda: any(int(redis.hget(record, "offset")) > LOGGED_TOKENS for record in records))
        (first,) = {redis.hget(record, "worker").decode() for record in records}  # it took all at once
        assert worker.kill_engine(first)
        results = [job.result(timeout_s=END_S) for job in jobs]
        assert [assert_whole(redis, job) for job in jobs] == expected
    largest, total = proxy.largest_bytes / 1024, proxy.total_bytes / 2**20
    print(f"two resumptions of {count} jobs: {total:.1f} MiB of replies, the largest {largest:.0f} kB")
    assert proxy.total_bytes > 10 * REPLY_BYTES
    assert proxy.largest_bytes <= REPLY_BYTES

    histories = [json.loads(redis.hget(record, "history")) for record in records]
    deaths = [[(death["worker"], death["how"]) for death in history] for history in histories]
    assert deaths == [[(first, "killed by SIGKILL")]] * count
    assert {result.attempts for result in results} == {0}  # each had company
    assert len(worker.events("engine_died")) == 1
    assert worker.events("job_lost") == []
    assert leaked_keys(redis) == []


GOOD = {"prompt": "A tuple is", "model": "demo", "max_tokens": 12, "ignore_eos": True, "temperature": 0.0}


def ended_in(redis: Redis, record: str) -> JobState | None:
    """The state in which a job has ended, if it has."""
    state = JobState(redis.hget(record, "state").decode())
    return state if state.terminal else None


def test_damaged_records_each_end_with_a_reason_and_good_ones_among_them_notice_nothing(
    redis_url: str,
    redis: Redis,
    start_worker: Callable[..., WorkerProcess],
    expected_tokens: Uninterrupted,
) -> None:
    worker = start_worker(redis_url)
    long = {**GOOD, "max_tokens": 1900}
    jobs = [worker.client.enqueue(**long)]
    next(iter(jobs[0].stream()))
    with Tenant(Site(redis_url, hanging=(), killers=0, attempts=0)) as mallory:
        for _ in range(3):
            jobs += worker.client.enqueue_many([GOOD] * 5)
            broken_records(mallory)
            jobs += worker.client.enqueue_many([GOOD] * 5)
    assert mallory.sent.problems == []
    for job in jobs:
        job.result(timeout_s=END_S)
    assert [assert_whole(redis, job) for job in jobs] == expected_tokens.of_each([long, *[GOOD] * 30])
    for record in (tag_of(job_id).job(job_id) for job_id in mallory.sent.jobs):
        state = wait_until(lambda record=record: ended_in(redis, record))
        assert state is JobState.SUCCEEDED or json.loads(redis.hget(record, "error"))["message"]
    causes = {fields[b"cause"].decode() for _, fields in redis.xrange(tag_of(jobs[0].id).dead)}
    assert causes == {"malformed entry", "job record missing"}
    assert_nothing_was_felt(worker, redis, jobs)
