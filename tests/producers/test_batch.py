import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from headrace import AsyncClient, BrokerUnavailable, HeadraceError, Limits
from headrace.producers.batch import BatchRun, Tally

from .conftest import work

DEFAULTS = {"model": "m", "job_class": "batch"}


def write_requests(path: Path, *requests: dict[str, Any] | str) -> Path:
    lines = [request if isinstance(request, str) else json.dumps(request) for request in requests]
    path.write_text("\n".join(lines) + "\n")
    return path


def answers(path: Path) -> dict[str, dict[str, Any]]:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert len({line["custom_id"] for line in lines}) == len(lines)
    return {line["custom_id"]: line for line in lines}


async def run(
    url: str,
    requests: Path,
    responses: Path,
    *,
    in_flight: int = 10,
    errors: Path | None = None,
    retry_failed: bool = False,
    **settings: Any,
) -> Tally:
    async with AsyncClient(url, **settings) as client:
        told: list[Tally] = []
        files = (requests, responses, DEFAULTS, in_flight, told.append)
        return await BatchRun(client, *files, errors=errors, retry_failed=retry_failed).run()


async def test_every_line_is_answered_in_its_own_form(redis_url: str, working: None, tmp_path: Path) -> None:
    requests = write_requests(
        tmp_path / "in.jsonl",
        {
            "custom_id": "chat",
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {"messages": [{"role": "user", "content": "hi"}], "max_completion_tokens": 2},
        },
        {
            "custom_id": "text",
            "method": "POST",
            "url": "/v1/completions",
            "body": {"model": "m", "prompt": "hi"},
        },
        {"prompt": "plain", "max_tokens": 2},
        "",
        {"custom_id": 5, "prompt": "a number for a name"},
    )
    tally = await run(redis_url, requests, tmp_path / "out.jsonl")
    found = answers(tmp_path / "out.jsonl")
    assert (tally.succeeded, tally.failed, tally.tokens) == (4, 0, 8)
    assert found.keys() == {"chat", "text", "line-3", "5"}
    assert found["chat"]["response"]["body"]["choices"][0]["message"]["content"] == "1000 1001 "
    assert found["text"]["response"]["body"]["choices"][0]["text"] == "1000 1001 "
    assert found["line-3"]["response"]["body"]["token_ids"] == [1000, 1001]
    assert all(line["response"]["status_code"] == 200 and line["error"] is None for line in found.values())


async def test_a_line_that_can_not_be_run_becomes_a_line_with_its_error(
    redis_url: str, working: None, tmp_path: Path
) -> None:
    requests = write_requests(
        tmp_path / "in.jsonl",
        {"custom_id": "good", "prompt": "x"},
        {"custom_id": "good", "prompt": "y"},
        "{not json",
        "[1, 2]",
        {"custom_id": "empty", "prompt": ""},
        {"custom_id": "unknown", "prompt": "x", "model": "other"},
        {"custom_id": "url", "url": "/v1/rerank", "body": {}},
        {"custom_id": "body", "url": "/v1/completions", "body": 3},
        {"custom_id": "fails", "prompt": "fail"},
        {"custom_id": "last", "prompt": "x"},
    )
    responses = tmp_path / "out.jsonl"
    tally = await run(redis_url, requests, responses)
    lines = [json.loads(line) for line in responses.read_text().splitlines()]
    errors = {line["custom_id"]: line["error"]["code"] for line in lines if line["error"]}
    assert (tally.succeeded, tally.failed, len(lines)) == (2, 8, 10)
    assert len({line["custom_id"] for line in lines}) == 10
    assert errors == {
        "line-2": "invalid_job",
        "line-3": "invalid_job",
        "line-4": "invalid_job",
        "empty": "invalid_job",
        "unknown": "unknown_model",
        "url": "invalid_job",
        "body": "invalid_job",
        "fails": "job_failed",
    }


async def test_an_interrupted_run_goes_on_with_the_same_jobs(
    redis_url: str, redis: Redis, worker: Any, tmp_path: Path, until_async: Callable[..., Awaitable[None]]
) -> None:
    requests = write_requests(tmp_path / "in.jsonl", *({"prompt": f"p{i}"} for i in range(6)))
    responses = tmp_path / "out.jsonl"
    first = asyncio.create_task(run(redis_url, requests, responses, in_flight=4))
    started: dict[str, Any] = {}
    await until_async(lambda: started.update(worker.start_all()) or len(started) == 4)
    half = list(started.values())
    for running in half[:2]:
        running.finish()
    await until_async(lambda: responses.exists() and len(responses.read_text().splitlines()) == 2)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    with responses.open("a") as torn:
        torn.write('{"custom_id": "line-3", "resp')

    for running in half[2:]:
        running.finish()
    task = asyncio.create_task(work(worker))
    tally = await run(redis_url, requests, responses)
    task.cancel()
    assert (tally.skipped, tally.succeeded) == (2, 4)
    assert answers(responses).keys() == {f"line-{number}" for number in range(1, 7)}
    assert len(list(redis.scan_iter("*:job:*"))) == 6  # nothing was enqueued twice
    again = await run(redis_url, requests, responses)
    assert (again.skipped, again.done) == (6, 6)


async def test_a_full_queue_is_waited_for(
    redis_url: str, worker: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, until_async: Any
) -> None:
    requests = write_requests(tmp_path / "in.jsonl", *({"prompt": f"p{i}"} for i in range(7)))
    responses = tmp_path / "out.jsonl"
    running = asyncio.create_task(run(redis_url, requests, responses, limits=Limits(max_queued_jobs=3)))
    task = asyncio.create_task(work(worker))
    tally = await running
    task.cancel()
    assert (tally.succeeded, tally.failed) == (7, 0)


async def test_no_more_jobs_are_under_way_than_asked_for(redis_url: str, worker: Any, tmp_path: Path) -> None:
    requests = write_requests(tmp_path / "in.jsonl", *({"prompt": f"p{i}"} for i in range(20)))
    most = 0

    async def watch() -> None:
        nonlocal most
        while True:
            started = worker.start_all()
            most = max(most, len(started))
            for running in started.values():
                running.finish()
            await asyncio.sleep(0.02)

    task = asyncio.create_task(watch())
    tally = await run(redis_url, requests, tmp_path / "out.jsonl", in_flight=5)
    task.cancel()
    assert tally.succeeded == 20
    assert 0 < most <= 5


async def test_the_loss_of_redis_ends_the_run_and_keeps_what_was_answered(
    free_port: int, tmp_path: Path
) -> None:
    requests = write_requests(tmp_path / "in.jsonl", {"prompt": "x"})
    with pytest.raises(BrokerUnavailable):
        await run(f"redis://127.0.0.1:{free_port}/0", requests, tmp_path / "out.jsonl", retry_s=0.1)
    assert (tmp_path / "out.jsonl").read_text() == ""


async def test_an_output_file_of_something_else_is_left_alone(redis_url: str, tmp_path: Path) -> None:
    requests = write_requests(tmp_path / "in.jsonl", {"prompt": "x"})
    other = tmp_path / "notes.txt"
    other.write_text("shopping\nlist\n")
    with pytest.raises(HeadraceError, match="choose another output file"):
        await run(redis_url, requests, other)
    assert other.read_text() == "shopping\nlist\n"


async def test_a_result_that_was_damaged_from_outside_is_its_lines_error_alone(
    redis_url: str, redis: Redis, worker: Any, tmp_path: Path, until_async: Callable[..., Awaitable[None]]
) -> None:
    requests = write_requests(tmp_path / "in.jsonl", {"prompt": "a"}, {"prompt": "b"})
    responses = tmp_path / "out.jsonl"
    task = asyncio.create_task(run(redis_url, requests, responses))
    started: dict[str, Any] = {}
    await until_async(lambda: started.update(worker.start_all()) or len(started) == 2)
    damaged, whole = started.values()
    redis.hset(damaged.tag.job(damaged.id), "spec", "junk")
    redis.hset(damaged.tag.job(damaged.id), "enqueued_ms", "junk")
    damaged.finish()
    whole.finish()
    tally = await task
    assert (tally.succeeded, tally.failed) == (1, 1)
    assert {line["error"] and line["error"]["code"] for line in answers(responses).values()} == {
        None,
        "record_damaged",
    }
