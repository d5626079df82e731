"""Batches, run by a runner in this process; workers are scripts, and all else is real."""

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from openai.types import Batch as OpenAIBatch
from redis import Redis

from headrace import AsyncClient, Job
from headrace.producers.batches import parts, record, runner, work
from headrace.producers.batches.record import BatchSpec, BatchStatus, RequestBatch
from headrace.producers.batches.requests import job_of
from headrace.producers.batches.runner import BatchRunner
from headrace.producers.batches.work import BatchWork, LeaseLost
from headrace.producers.files.store import FileStore
from headrace.schemas.errors import BatchNotFound, FilesUnavailable, InvalidJob
from headrace.schemas.keys import BatchKeys
from headrace.schemas.scripts import claim_batch
from headrace.schemas.settings.files import FilesSettings

from ..support.waiting import WAIT_S
from .conftest import ScriptedWorker

URL = "/v1/chat/completions"


def request(custom_id: str, content: str = "hi", **more: Any) -> dict[str, Any]:
    body = {"model": "m", "messages": [{"role": "user", "content": content}], "max_tokens": 4}
    return {"custom_id": custom_id, "method": "POST", "url": URL, "body": body, **more}


async def until(check: Callable[[], Awaitable[Any]]) -> None:
    give_up_at = time.monotonic() + WAIT_S
    while not await check():
        assert time.monotonic() < give_up_at
        await asyncio.sleep(0.01)


class Desk:
    """What a tenant and a gateway do."""

    def __init__(self, client: AsyncClient, folder: Path) -> None:
        self.settings = FilesSettings(files_url=folder.as_uri(), batch_in_flight=20)
        self.client, self.files = client, FileStore(client, self.settings)

    async def submit(self, *lines: dict[str, Any] | str, tenant: str = "t", **asked: Any) -> RequestBatch:
        async def pieces() -> AsyncIterator[bytes]:
            for line in lines:
                yield (line if isinstance(line, str) else json.dumps(line)).encode() + b"\n"

        file = await self.files.create(tenant, "in.jsonl", "batch", pieces())
        wanted = record.batch_spec(tenant, URL, file.id, **asked)
        return await self.client._run(record.create(self.client._operations, wanted))

    async def batch(self, batch: RequestBatch, tenant: str = "t") -> RequestBatch:
        return await self.client._run(record.find(self.client._operations, tenant, batch.id))

    async def cancel(self, batch: RequestBatch) -> RequestBatch:
        return await self.client._run(record.cancel(self.client._operations, "t", batch.id))

    async def take(self) -> BatchWork:
        """The work on the next batch, as a runner takes it."""
        holder = secrets.token_hex(8)
        call = claim_batch(BatchKeys(), holder, 60)
        claimed = await self.client._run(self.client._operations.send(call))
        assert claimed is not None
        return BatchWork(self.client, self.files, self.settings, holder, *claimed)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(BatchRunner(self.client, self.files, self.settings).run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def lines(self, file_id: str | None) -> dict[str, dict[str, Any]]:
        if file_id is None:
            return {}
        file = await self.files.find("t", file_id)
        text = b"".join([piece async for piece in self.files.read(file)])
        found = [json.loads(line) for line in text.splitlines()]
        answered = {line["custom_id"]: line for line in found}
        assert len(answered) == len(found), "a line is answered twice"
        return answered


@pytest.fixture
async def desk(
    redis_url: str, worker: ScriptedWorker, tmp_path: Path, monkeypatch: Any
) -> AsyncIterator[Desk]:
    for module, name, value in ((parts, "FIRST_S", 0.05), (work, "RENEW_S", 0.05)):
        monkeypatch.setattr(module, name, value)
    async with AsyncClient(redis_url) as client:
        yield Desk(client, tmp_path / "store")


async def test_every_line_is_answered_and_counted(desk: Desk, working: None) -> None:
    failing, wrong = request("fails", "fail"), request("wrong")
    wrong["body"]["temperature"] = -1
    lines = [request(f"line {i}") for i in range(60)]
    batch = await desk.submit(*lines, failing, wrong, metadata={"a": "b"})
    async with desk.running():
        await until(lambda: ended(desk, batch))
    done = await desk.batch(batch)
    assert (done.status, done.total, done.completed, done.failed) == ("completed", 62, 60, 2)
    output, errors = await desk.lines(done.output_file), await desk.lines(done.error_file)
    assert output.keys() == {f"line {i}" for i in range(60)}
    answer = output["line 7"]["response"]
    assert answer["status_code"] == 200
    assert answer["body"]["choices"][0]["message"]["content"] == "1000 1001 "
    assert errors.keys() == {"fails", "wrong"}
    assert errors["wrong"]["response"]["status_code"] == 400
    shown = done.body()
    OpenAIBatch.model_validate(shown, strict=True)
    assert (shown["metadata"], shown["model"]) == ({"a": "b"}, "m")


async def test_a_tenants_batches_leave_room_for_anothers(
    desk: Desk, worker: ScriptedWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "MOST_BATCHES", 2)
    monkeypatch.setattr(runner, "POLL_S", 0.05)
    held, finished = [], asyncio.Event()

    async def work_for_others_first() -> None:
        while True:
            held.extend(worker.start_all().values())
            for job in (
                [*held] if finished.is_set() else [job for job in held if b"urgent" in job.claimed.spec]
            ):
                held.remove(job)
                job.write(1)
                job.finish()
            await asyncio.sleep(0.01)

    first = [await desk.submit(request("line"), request("another")) for _ in range(4)]
    working = asyncio.create_task(work_for_others_first())
    try:
        async with desk.running():
            await until(lambda: started(desk, first, 2))
            urgent = await desk.submit(request("line", "urgent"), tenant="u")
            await until(lambda: ended(desk, urgent, "u"))
            assert not any([await ended(desk, batch) for batch in first])
            # The one that gave way is taken up again, and finds its jobs.
            finished.set()
            for batch in first:
                await until(lambda batch=batch: ended(desk, batch))
                assert (await desk.batch(batch)).completed == 2
    finally:
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)


async def test_none_gives_way_to_a_batch_if_room_was_made_while_it_was_taken(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "MOST_BATCHES", 2)
    await desk.submit(request("line"), tenant="u")
    taking = BatchRunner(desk.client, desk.files, desk.settings)
    for _ in range(2):
        ending = asyncio.create_task(asyncio.sleep(0))
        taking._works[ending] = "t"
        ending.add_done_callback(taking._works.pop)
    await taking._take()
    (task,) = taking._works
    assert taking._works[task] == "u"
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def started(desk: Desk, batches: list[RequestBatch], count: int) -> bool:
    statuses = [(await desk.batch(batch)).status for batch in batches]
    return statuses.count(BatchStatus.IN_PROGRESS) == count


async def ended(desk: Desk, batch: RequestBatch, tenant: str = "t") -> bool:
    return (await desk.batch(batch, tenant)).status.ended


def test_lines_keep_the_models_that_they_drew_when_a_batch_is_taken_up_again() -> None:
    asked = record.batch_spec("t", URL, "file-x").model_copy(update={"routes": {"chat": {"a": 1, "b": 1}}})
    again = BatchSpec.model_validate_json(asked.model_dump_json())
    line = request("x")
    line["body"]["model"] = "chat"
    drawn = [
        [job_of(number, json.dumps(line).encode(), "batch_1", each, 10_000).job for number in range(40)]
        for each in (asked, again)
    ]
    assert drawn[0] == drawn[1]
    assert {job.model for job in drawn[0] if isinstance(job, Job)} == {"a", "b"}
    limited = asked.model_copy(update={"models": ("a", "b")})
    refused = job_of(1, json.dumps(line).encode(), "batch_1", limited, 10_000).job
    assert isinstance(refused, InvalidJob)


BAD_FILES: dict[str, tuple[list[dict[str, Any] | str], list[tuple[str, int | None, str | None]]]] = {
    "no JSON": ([request("a"), "{"], [("invalid_json_line", 2, "line")]),
    "an id twice": ([request("a"), request("a")], [("duplicate_custom_id", 2, "custom_id")]),
    "other endpoints": (
        [request("a", url="/v1/completions"), request("b", method="GET")],
        [("invalid_request", 1, "url"), ("invalid_request", 2, "method")],
    ),
    "no id": ([{"url": URL, "body": {}}], [("invalid_request", 1, "custom_id")]),
    "nothing": (["", " "], [("empty_file", None, None)]),
}


@pytest.mark.parametrize("name", BAD_FILES)
async def test_a_bad_file_fails_the_batch_with_its_faults_listed(desk: Desk, name: str) -> None:
    lines, faults = BAD_FILES[name]
    batch = await desk.submit(*lines)
    await (await desk.take()).run()
    failed = await desk.batch(batch)
    assert (failed.status, failed.total, failed.failed_at is None) == ("failed", 0, False)
    assert [(fault["code"], fault["line"], fault["param"]) for fault in failed.errors or ()] == faults


async def test_no_line_can_choose_its_tenant_or_its_class(desk: Desk, working: None) -> None:
    lines = [request(name) for name in ("tenant", "job_class", "idempotency_key", "webhook")]
    for line in lines:
        line["body"][line["custom_id"]] = "other"
    batch = await desk.submit(*lines)
    await (await desk.take()).run()
    errors = await desk.lines((await desk.batch(batch)).error_file)
    assert {name: line["response"]["status_code"] for name, line in errors.items()} == dict.fromkeys(
        ("tenant", "job_class", "idempotency_key", "webhook"), 400
    )


async def test_a_batch_whose_runner_died_anywhere_answers_each_line_once(
    desk: Desk, worker: ScriptedWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A runner is given up after each step; what it leaves is what a killed process would."""
    monkeypatch.setattr(parts, "PART_LINES", 7)
    batch = await desk.submit(*[request(f"line {i}") for i in range(50)])
    answered = 0

    async def answer_some(count: int) -> None:
        nonlocal answered
        for _ in range(count):
            await until(lambda: queued(worker))
            job = worker.start()
            job.write(2)
            job.finish()
            answered += 1

    for count in (0, 3, 8, 16, 20):
        running = asyncio.create_task((await desk.take()).run())
        await until(lambda: queued(worker))
        await answer_some(count)
        await until(lambda: counted(desk, batch, answered - answered % 7))
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        worker.redis.zadd(BatchKeys().active, {f"t:{batch.id}": 0})
    running = asyncio.create_task((await desk.take()).run())
    await answer_some(50 - answered)
    await running
    done = await desk.batch(batch)
    assert (done.status, done.completed, done.failed) == ("completed", 50, 0)
    assert len(await desk.lines(done.output_file)) == 50
    assert len(list(worker.redis.scan_iter(worker.tag.job("*")))) == 50


async def counted(desk: Desk, batch: RequestBatch, least: int) -> bool:
    return (await desk.batch(batch)).completed >= least


async def queued(worker: ScriptedWorker) -> bool:
    return worker.redis.zcard(worker.tag.backlog("batch")) > 0


async def test_a_runner_that_lost_its_lease_can_count_nothing(desk: Desk, redis: Redis) -> None:
    batch = await desk.submit(request("a"))
    slow = await desk.take()
    redis.zadd(BatchKeys().active, {f"t:{batch.id}": 0})
    await desk.take()
    with pytest.raises(LeaseLost):
        await slow.run()
    assert (await desk.batch(batch)).status is BatchStatus.VALIDATING


async def test_a_cancelled_batch_keeps_what_was_answered_and_says_so_of_the_rest(
    desk: Desk, worker: ScriptedWorker
) -> None:
    batch = await desk.submit(*[request(f"line {i}") for i in range(40)])
    async with desk.running():
        await until(lambda: queued(worker))
        first = worker.start()
        first.write(2)
        first.finish()
        await until(lambda: counted(desk, batch, 1))
        assert (await desk.cancel(batch)).body()["status"] == "cancelling"
        await until(lambda: ended(desk, batch))
    done = await desk.batch(batch)
    assert (done.status, done.completed, done.failed) == ("cancelled", 1, 39)
    errors = await desk.lines(done.error_file)
    assert {line["error"]["code"] for line in errors.values()} == {"batch_cancelled"}
    assert len(await desk.lines(done.output_file)) == 1
    assert (await desk.cancel(batch)).status is BatchStatus.CANCELLED


async def test_a_batch_expires_with_its_window(desk: Desk, worker: ScriptedWorker) -> None:
    batch = await desk.submit(*[request(f"line {i}") for i in range(3)], completion_window="1s")
    await (await desk.take()).run()
    done = await desk.batch(batch)
    assert (done.status, done.completed, done.failed) == ("expired", 0, 3)
    errors = await desk.lines(done.error_file)
    assert {line["error"]["code"] for line in errors.values()} == {"batch_expired"}


async def test_a_full_queue_is_waited_for(redis_url: str, desk: Desk, working: None) -> None:
    from headrace import Limits

    async with AsyncClient(redis_url, limits=Limits(max_queued_jobs=5)) as client:
        desk.client = client
        batch = await desk.submit(*[request(f"line {i}") for i in range(20)])
        await (await desk.take()).run()
        assert (await desk.batch(batch)).completed == 20


async def test_lines_that_are_larger_than_all_slots_are_answered_too(desk: Desk, working: None) -> None:
    large = [request(f"large {i}", "x" * 2_000_000) for i in range(3)]
    batch = await desk.submit(request("a"), *large, *[request(f"line {i}", "x" * 100_000) for i in range(30)])
    await (await desk.take()).run()
    assert (await desk.batch(batch)).completed == 34


async def test_an_ended_batch_leaves_only_its_files(
    desk: Desk, working: None, redis: Redis, tmp_path: Path
) -> None:
    batch = await desk.submit(request("a"))
    await (await desk.take()).run()
    redis.zadd(BatchKeys().active, {f"t:{batch.id}": 0})
    await (await desk.take()).run()
    assert redis.zcard(BatchKeys().active) == 0
    done = await desk.batch(batch)
    assert kept(tmp_path) == {batch.asked.input_file_id, done.output_file}


def kept(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*") if path.is_file()}


async def test_a_batch_without_its_file_fails(desk: Desk) -> None:
    batch = await desk.submit(request("a"))
    await desk.files.delete("t", batch.asked.input_file_id)
    await (await desk.take()).run()
    (fault,) = (await desk.batch(batch)).errors or ()
    assert fault["code"] == "input_file_not_found"


async def test_a_runner_with_another_store_leaves_the_batch_to_others(
    desk: Desk, working: None, redis: Redis, tmp_path: Path
) -> None:
    batch = await desk.submit(request("a"))
    other = await Desk(desk.client, tmp_path / "other").take()
    with pytest.raises(FilesUnavailable, match="share one files_url"):
        await other.run()
    await other.release()
    await (await desk.take()).run()
    assert (await desk.batch(batch)).completed == 1


async def test_another_tenants_batch_is_not_there(desk: Desk) -> None:
    batch = await desk.submit(request("a"))
    with pytest.raises(BatchNotFound):
        await desk.batch(batch, "other")
    steps = record.page(desk.client._operations, "other", after=None, limit=10)
    assert await desk.client._run(steps) == ([], False)
    steps = record.page(desk.client._operations, "t", after=None, limit=10)
    assert await desk.client._run(steps) == ([batch], False)


@pytest.mark.parametrize("window", ["", "24", "0h", "8d", "99999999h", "-1h"])
def test_a_window_that_is_none_is_refused(window: str) -> None:
    with pytest.raises(InvalidJob, match="completion_window"):
        record.batch_spec("t", URL, "file-x", window)


def test_line_numbers_are_written_as_ranges() -> None:
    assert parts.ranges([9, 1, 2, 3, 5]) == "1-3,5,9"
    assert list(parts.spread("1-3,5,9")) == [1, 2, 3, 5, 9]
    assert list(parts.spread("")) == []
