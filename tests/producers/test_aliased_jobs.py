"""Jobs that ask for an alias: whichever producer enqueues them, one of the alias's models runs them."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from headrace import AsyncClient, Client, IdempotencyConflict, Job, UnknownModel
from headrace.producers.batch import BatchRun
from headrace.producers.steps import Calls, Read, Request, drive
from headrace.schemas import keys
from headrace.schemas.keys import Tag, tag_of

from .conftest import MODEL, ScriptedWorker


@pytest.fixture
def chat(client: Client, redis: Redis, worker: ScriptedWorker) -> Iterator[str]:
    """An alias of the worker's model; what it leaves is removed."""
    client.admin.set_route("chat", {MODEL: 1})
    yield "chat"
    for alias in client.admin.routes():
        client.admin.drop_route(alias)
    if kept := list(redis.scan_iter(keys.routed("*"))):
        redis.delete(*kept)


def models(jobs: Any) -> list[str]:
    return [tag_of(job.id).model for job in jobs]


def test_jobs_by_alias_and_by_model_are_enqueued_together_in_their_order(client: Client, chat: str) -> None:
    by_alias = client.enqueue("x", model=chat)
    assert models([by_alias]) == [MODEL]
    jobs = client.enqueue_many({"prompt": "x", "model": model} for model in (MODEL, chat, MODEL, chat))
    assert models(jobs) == [MODEL] * 4
    assert len({job.id for job in jobs}) == 4


@pytest.mark.parametrize("check_model", [True, False])
def test_an_alias_hides_a_model_of_its_name_until_it_is_dropped(
    redis_url: str, redis: Redis, client: Client, chat: str, check_model: bool
) -> None:
    client.admin.drop_route(chat)  # else there would be an alias of an alias
    redis.hset(keys.models(), "large", json.dumps({"id": "large", "context_tokens": 4096}))
    with Client(redis_url, check_model=check_model, partitions=2) as producer:
        before = producer.enqueue("x", model=MODEL)
        producer.admin.set_route(MODEL, {"large": 1})
        jobs = [producer.enqueue("x", model=MODEL) for _ in range(8)]  # in either partition
        producer.admin.drop_route(MODEL)
        after = producer.enqueue("x", model=MODEL)
        assert models([before, *jobs, after]) == [MODEL, *["large"] * 8, MODEL]
        for job in (before, *jobs, after):
            job.cancel()
    assert not list(redis.scan_iter("*:alias"))


def test_a_model_may_take_the_name_of_an_alias_that_was_dropped(
    client: Client, redis: Redis, chat: str
) -> None:
    client.enqueue("x", model=chat)
    client.admin.drop_route(chat)
    redis.hset(keys.models(), chat, json.dumps({"id": chat, "context_tokens": 4096}))
    job = client.enqueue("x", model=chat)
    assert models([job]) == [chat]
    job.cancel()


def test_a_user_keeps_a_model_and_a_key_finds_its_job_again(
    client: Client, redis: Redis, worker: ScriptedWorker, chat: str
) -> None:
    redis.hset(keys.models(), "large", json.dumps({"id": "large", "context_tokens": 4096}))
    client.admin.set_route(chat, {MODEL: 1, "large": 1})
    jobs = []
    for user in map(str, range(6)):
        mine = client.enqueue_many([{"prompt": "x", "model": chat, "metadata": {"user": user}}] * 3)
        assert len(set(models(mine))) == 1
        jobs += mine
    assert set(models(jobs)) == {MODEL, "large"}
    keyed = [{"prompt": "x", "model": chat, "idempotency_key": str(each)} for each in range(6)]
    first = client.enqueue_many(keyed)
    client.admin.set_route(chat, {"large": 1})
    assert client.enqueue_many(keyed) == first == [client.enqueue(**each) for each in keyed]
    with pytest.raises(IdempotencyConflict):
        client.enqueue(**keyed[0] | {"prompt": "another"})
    for job in jobs + first:
        job.cancel()


def test_jobs_that_name_their_model_pay_no_request_for_aliases(client: Client, chat: str) -> None:
    client.enqueue("x", model=MODEL)
    asked: list[Request] = []

    def perform(request: Request) -> Any:
        asked.append(request)
        return client._link().perform(request)

    keyed = Job(prompt="x", model=MODEL, idempotency_key="k")
    drive(client._operations.enqueue(keyed), perform)
    drive(client._operations.enqueue_many([{"prompt": "x", "model": MODEL}]), perform)
    assert [type(each) for each in asked] == [Calls, Calls]
    client.enqueue("x", model=chat)
    asked.clear()
    drive(client._operations.enqueue(Job(prompt="x", model=chat)), perform)
    assert [type(each) for each in asked] == [Read, Calls]


def test_a_name_of_neither_a_model_nor_an_alias_is_refused(client: Client, chat: str) -> None:
    with pytest.raises(UnknownModel, match="nobody"):
        client.enqueue("x", model="nobody")
    client.enqueue("x", model=chat)
    client.admin.drop_route(chat)
    with pytest.raises(UnknownModel, match="chat"):
        client.enqueue("x", model=chat)


def test_a_task_sent_again_finds_its_job_by_alias(
    celery_task: Any, client: Client, redis: Redis, chat: str
) -> None:
    redis.hset(keys.models(), "large", json.dumps({"id": "large", "context_tokens": 4096}))
    client.admin.set_route(chat, {MODEL: 1, "large": 1})
    try:
        for _ in range(4):
            task = celery_task.apply_async(("x",), {"model": chat})
            celery_task.apply_async(("x",), {"model": chat}, task_id=task.id)
        found = [tag.model for tag in (Tag(MODEL), Tag("large")) for _ in redis.scan_iter(tag.job("*"))]
        assert len(found) == 4
    finally:
        for each in redis.scan_iter(Tag("large").job("*")):
            client.job(each.decode().rpartition(":job:")[2]).cancel()


async def test_a_file_of_requests_names_aliases(
    redis_url: str, chat: str, working: None, tmp_path: Path
) -> None:
    body = {"model": chat, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}
    line = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": body}
    (tmp_path / "in.jsonl").write_text(json.dumps(line))
    async with AsyncClient(redis_url) as client:
        files = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
        tally = await BatchRun(client, *files, {}, 4, lambda _: None).run()
    answer = json.loads((tmp_path / "out.jsonl").read_text())
    assert tally.succeeded == 1
    assert answer["response"]["body"]["model"] == MODEL
