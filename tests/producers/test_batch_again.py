"""Batches that are run again, whose errors have a file of their own, and that come and go through pipes."""

import asyncio
import json
import os
import re
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from headrace import HeadraceError, Job
from headrace.producers import batch_lines
from headrace.producers.batch import TIME_CHARACTERS
from headrace.producers.batch_answers import AnswerFile, Standing
from headrace.producers.batch_lines import numbered_lines, parse_line
from headrace.schemas.events import JobError, JobState
from headrace.schemas.ids import new_job_id

from ..conftest import environment
from .test_batch import answers, run, write_requests

HEADRACE = (sys.executable, "-W", "error", "-m", "headrace.cli")
FAILED = JobError(code="context_length", message="too long")


async def answer(worker: Any, until: Any, *outcomes: JobState) -> None:
    """End the next jobs so."""
    started: dict[str, Any] = {}
    await until(lambda: started.update(worker.start_all()) or len(started) == len(outcomes))
    for job, outcome in zip(started.values(), outcomes, strict=True):
        job.write(2)
        job.finish(outcome, error=FAILED if outcome is JobState.FAILED else None)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


async def later(until: Any) -> None:
    """A job is known as an earlier run's by its millisecond."""
    now = new_job_id("m")[:TIME_CHARACTERS]
    await until(lambda: new_job_id("m")[:TIME_CHARACTERS] > now)


async def test_failed_lines_are_tried_again_when_asked_for_and_have_one_answer(
    redis_url: str, redis: Redis, worker: Any, tmp_path: Path, until_async: Callable[..., Awaitable[None]]
) -> None:
    requests = write_requests(
        tmp_path / "in.jsonl",
        {"custom_id": "good", "prompt": "a"},
        {"custom_id": "fails", "prompt": "b"},
        {"custom_id": "refused", "prompt": ""},
        {"custom_id": "fails", "prompt": "twice"},
        {"custom_id": "keyed", "prompt": "c", "idempotency_key": "mine"},
    )
    responses = tmp_path / "out.jsonl"
    responses.touch(0o640)
    first = asyncio.create_task(run(redis_url, requests, responses))
    await answer(worker, until_async, JobState.SUCCEEDED, JobState.FAILED, JobState.FAILED)
    assert ((tally := await first).failed, tally.errors) == (4, 4)
    assert answers(responses).keys() == {"good", "fails", "refused", "line-4", "keyed"}

    again = await run(redis_url, requests, responses)
    assert (again.skipped, again.standing, again.errors) == (5, 4, 4)

    await later(until_async)
    retried = asyncio.create_task(run(redis_url, requests, responses, retry_failed=True))
    await answer(worker, until_async, JobState.SUCCEEDED, JobState.FAILED)
    tally = await retried
    assert (tally.skipped, tally.succeeded, tally.failed, tally.errors) == (1, 1, 3, 3)
    found = answers(responses)  # which has each id once
    assert {name for name, line in found.items() if line["error"]} == {"refused", "line-4", "keyed"}
    assert responses.stat().st_mode & 0o777 == 0o640
    assert names(tmp_path) == {"in.jsonl", "out.jsonl"}

    await later(until_async)
    last = asyncio.create_task(run(redis_url, requests, responses, retry_failed=True))
    await answer(worker, until_async, JobState.SUCCEEDED)
    assert ((tally := await last).succeeded, tally.failed) == (1, 2)
    assert len(list(redis.scan_iter("*:job:*"))) == 6


async def test_a_retry_that_was_interrupted_goes_on_with_its_own_jobs(
    redis_url: str, redis: Redis, worker: Any, tmp_path: Path, until_async: Callable[..., Awaitable[None]]
) -> None:
    requests = write_requests(tmp_path / "in.jsonl", {"prompt": "a"})
    responses = tmp_path / "out.jsonl"
    first = asyncio.create_task(run(redis_url, requests, responses))
    await answer(worker, until_async, JobState.CANCELLED)
    await first
    await later(until_async)
    interrupted = asyncio.create_task(run(redis_url, requests, responses, retry_failed=True))
    await until_async(lambda: len(list(redis.scan_iter("*:job:*"))) == 2)
    interrupted.cancel()
    await asyncio.gather(interrupted, return_exceptions=True)
    assert responses.read_text() == ""
    goes_on = asyncio.create_task(run(redis_url, requests, responses, retry_failed=True))
    await answer(worker, until_async, JobState.SUCCEEDED)
    assert (await goes_on).errors == 0
    assert len(list(redis.scan_iter("*:job:*"))) == 2


async def test_errors_have_a_file_of_their_own(redis_url: str, working: None, tmp_path: Path) -> None:
    requests = write_requests(tmp_path / "in.jsonl", {"prompt": "a"}, {"prompt": ""}, {"prompt": "fail"})
    responses, errors = tmp_path / "out.jsonl", tmp_path / "errors.jsonl"
    for attempt in range(2):
        tally = await run(redis_url, requests, responses, errors=errors)
        assert (tally.skipped, tally.errors) == (3 * attempt, 2)
    assert answers(responses).keys() == {"line-1"}
    assert answers(errors).keys() == {"line-2", "line-3"}
    tally = await run(redis_url, requests, responses, errors=errors, retry_failed=True)
    assert (tally.skipped, tally.failed) == (1, 2)
    assert answers(errors).keys() == {"line-2", "line-3"}


async def test_two_runs_do_not_write_one_file(
    redis_url: str, worker: Any, tmp_path: Path, until_async: Callable[..., Awaitable[None]]
) -> None:
    requests, responses = write_requests(tmp_path / "in.jsonl", {"prompt": "a"}), tmp_path / "out.jsonl"
    first = asyncio.create_task(run(redis_url, requests, responses))
    await until_async(responses.exists)
    with pytest.raises(HeadraceError, match="another run is writing"):
        await run(redis_url, requests, responses)
    await answer(worker, until_async, JobState.SUCCEEDED)
    await first


@pytest.mark.parametrize(
    "content",
    [
        "shopping",
        '{"id": 5, "name": "x"}',
        '{"name": "x',
        '{"custom_id": "a", "prompt": "x"}\n',
        '"custom_id"\n',
        "[]\n",
    ],
)
async def test_a_file_that_is_no_batchs_stays_as_it_is(redis_url: str, tmp_path: Path, content: str) -> None:
    requests, other = write_requests(tmp_path / "in.jsonl", {"prompt": "x"}), tmp_path / "other"
    other.write_text(content)
    with pytest.raises(HeadraceError, match="choose another output file"):
        await run(redis_url, requests, other, retry_failed=True)
    assert other.read_text() == content


async def test_of_a_line_without_end_little_is_held(
    redis_url: str, working: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = tmp_path / "long"
    long.write_bytes(b'{"prompt": "' + b"x" * 500_000 + b'"}\n\n  \n{"prompt": "y"}')
    pages = [page async for page in numbered_lines(long, 1000)]
    assert [(number, len(text)) for page in pages for number, text in page] == [(1, 1001), (4, 15)]
    monkeypatch.setattr(batch_lines, "ENDLESS", 2**20)
    with pytest.raises(HeadraceError, match="line 1 of /dev/zero has no end"):
        await run(redis_url, Path("/dev/zero"), tmp_path / "out.jsonl")


@pytest.fixture
def batch(redis_url: str, working: None, tmp_path: Path) -> Callable[..., Awaitable[tuple[int, str, str]]]:
    """Run `headrace batch` as a process; its status and output, but not why a job waits on a busy machine."""

    async def call(
        *arguments: str, given: str | None = None, stdout: Any = subprocess.PIPE
    ) -> tuple[int, str, str]:
        process = await asyncio.create_subprocess_exec(
            *HEADRACE, "batch", *arguments, "-m", "m", "--redis", redis_url,
            cwd=tmp_path,
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=stdout,
            stderr=subprocess.PIPE,
        )  # fmt: skip
        out, err = await process.communicate(None if given is None else given.encode())
        said = "".join(line for line in err.decode().splitlines(keepends=True) if " waits: " not in line)
        return process.returncode or 0, (out or b"").decode(), said

    return call


@pytest.fixture
def full() -> Iterator[Any]:
    with Path("/dev/full").open("wb") as device:
        yield device


async def test_both_ends_may_be_pipes(batch: Any, tmp_path: Path) -> None:
    given = '{"custom_id": "a", "prompt": "x"}\n{"custom_id": "b", "prompt": "fail"}'
    status, out, err = await batch("-", "-o", "-", given=given)
    assert (status, err) == (1, "1 answered, 1 failed, 0 skipped; 2 tokens\n")
    assert {json.loads(line)["custom_id"] for line in out.splitlines()} == {"a", "b"}
    status, out, err = await batch("-", "-o", "/dev/stdout", "-e", "errors", given=given)
    assert (status, [json.loads(line)["custom_id"] for line in out.splitlines()]) == (1, ["a"])
    status, out, err = await batch("-", "-o", "kept", given=given)
    status, out, err = await batch("-", "-o", "kept", given=given)
    assert (status, " 2 skipped" in err, len(answers(tmp_path / "kept"))) == (1, True, 2)
    assert not (tmp_path / "-").exists()


async def test_devices_are_written_and_never_read(batch: Any, tmp_path: Path, full: Any) -> None:
    write_requests(tmp_path / "in", {"prompt": "x"})
    assert await batch("in", "-o", "/dev/null") == (0, "", "1 answered, 0 failed, 0 skipped; 2 tokens\n")
    for output, named in (("/dev/full", "/dev/full"), ("-", "standard output")):
        status, _, err = await batch("in", "-o", output, stdout=full)
        assert (status, err) == (1, f"headrace: {named}: No space left on device\n")
    status, _, err = await batch("in", "-o", "in")
    assert status == 2
    assert "must be different" in err.replace("\n", " ")
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDWR)
    assert (await batch("in", "-o", "pipe"))[0] == 0
    assert json.loads(os.read(reader, 2**16))["custom_id"] == "line-1"
    os.close(reader)


def test_the_pages_lines_are_requests_and_answers(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "batch.md").read_text()
    requests, kept = re.findall(r"```json\n(.*?)```", page, re.DOTALL)
    parsed = [
        parse_line(number, line.encode(), {}, "x") for number, line in enumerate(requests.splitlines(), 1)
    ]
    assert [line.custom_id for line in parsed] == ["a", "b", "line-3"]
    assert all(isinstance(line.job, Job) and line.job.model == "demo" for line in parsed)
    (tmp_path / "answers").write_text(kept)
    with AnswerFile(tmp_path / "answers") as file:
        assert file.standing == Standing({"a", "c"}, {"c"})
