"""LoRA adapters, as operators load them, and as jobs that ask for one say which they are for."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from headrace import (
    AsyncClient,
    BadPolicy,
    Client,
    IdempotencyConflict,
    InvalidJob,
    ModelAdapter,
    UnknownModel,
)
from headrace.engine.adapters.files import adapter_fingerprint
from headrace.schemas import keys
from headrace.schemas.adapters import folder_fingerprint
from headrace.schemas.keys import Tag, tag_of
from headrace.schemas.wire import WireJob

from .conftest import MODEL


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with an adapter's files, which producers never look into."""
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    (tmp_path / "adapter_model.safetensors").write_bytes(bytes(range(256)) * 99)
    return tmp_path


@pytest.fixture
def tuned(client: Client, redis: Redis, folder: Path) -> Iterator[ModelAdapter]:
    """An adapter of the worker's model; what it leaves is removed."""
    yield client.admin.load_adapter("tuned", str(folder), model=MODEL)
    for name in client.admin.adapters():
        client.admin.drop_adapter(name)
    assert not list(redis.scan_iter("*:alias"))


def spec_of(redis: Redis, job_id: str) -> WireJob:
    return WireJob.from_wire(redis.hget(tag_of(job_id).job(job_id), "spec"))


def test_producer_and_engine_agree_on_a_folders_fingerprint(folder: Path) -> None:
    assert folder_fingerprint(folder) == adapter_fingerprint(folder)
    before = folder_fingerprint(folder)
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA" }')
    assert folder_fingerprint(folder) == adapter_fingerprint(folder) != before


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_files_of_a_folder_that_never_end_are_refused_by_name(folder: Path, name: str) -> None:
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with pytest.raises(BadPolicy, match=f"its {name} can't be read \\(it isn't a regular file\\)"):
        folder_fingerprint(folder)
    (folder / name).unlink()
    (folder / name).symlink_to("/dev/zero")
    with pytest.raises(BadPolicy, match="isn't a regular file"):
        folder_fingerprint(folder)


@pytest.mark.parametrize(
    ("name", "size"), [("adapter_config.json", 1 << 20), ("adapter_model.safetensors", 1 << 34)]
)
def test_files_that_no_worker_would_read_are_refused_before_they_are_hashed(
    folder: Path, name: str, size: int
) -> None:
    with (folder / name).open("wb") as file:
        file.truncate(size + 1)
    with pytest.raises(BadPolicy, match=f"its {name} has {size + 1} bytes; at most {size} are read"):
        folder_fingerprint(folder)


def test_an_adapter_is_loaded_replaced_and_dropped(client: Client, tuned: ModelAdapter, folder: Path) -> None:
    assert tuned == ModelAdapter(
        name="tuned", base=MODEL, source=str(folder), fingerprint=folder_fingerprint(folder)
    )
    assert client.admin.adapters() == {"tuned": tuned}
    far = client.admin.load_adapter("tuned", "org/far", fingerprint="0" * 32)  # of the only model
    assert client.admin.adapters() == {"tuned": far}
    assert far.base == MODEL
    client.admin.drop_adapter("tuned")
    with pytest.raises(BadPolicy, match="no adapter 'tuned'"):
        client.admin.drop_adapter("tuned")


@pytest.mark.parametrize("check_model", [True, False])
def test_a_job_for_an_adapter_is_in_its_bases_queue_and_names_its_content(
    redis_url: str, redis: Redis, tuned: ModelAdapter, check_model: bool
) -> None:
    with Client(redis_url, check_model=check_model) as producer:
        asked = [{"prompt": "x", "model": model} for model in ("tuned", MODEL, "tuned")]
        jobs = [producer.enqueue("x", model="tuned"), *producer.enqueue_many(asked)]
        specs = [spec_of(redis, job.id) for job in jobs]
        for job in jobs:
            job.cancel()
    assert [tag_of(job.id).model for job in jobs] == [MODEL] * 4
    assert [spec.model for spec in specs] == [MODEL] * 4
    assert [spec.adapter for spec in specs] == [tuned.of_job, tuned.of_job, None, tuned.of_job]


async def test_the_async_client_and_an_alias_find_it_too(
    redis_url: str, redis: Redis, tuned: ModelAdapter
) -> None:
    async with AsyncClient(redis_url) as producer:
        await producer.admin.set_route("chat", {"tuned": 1})
        jobs = [await producer.enqueue("x", model=name) for name in ("tuned", "chat")]
        assert [spec_of(redis, job.id).adapter for job in jobs] == [tuned.of_job] * 2
        for job in jobs:
            await job.cancel()
        await producer.admin.drop_route("chat")


def test_a_celery_task_for_an_adapter_finds_its_job_when_it_is_sent_again(
    celery_task: Any, client: Client, redis: Redis, tuned: ModelAdapter
) -> None:
    task = celery_task.apply_async(("x",), {"model": "tuned"})
    celery_task.apply_async(("x",), {"model": "tuned"}, task_id=task.id)
    (found,) = redis.scan_iter(Tag(MODEL).job("*"))
    job_id = found.decode().rpartition(":job:")[2]
    assert spec_of(redis, job_id).adapter == tuned.of_job
    client.job(job_id).cancel()


def test_a_key_finds_its_job_after_the_adapter_was_replaced(client: Client, tuned: ModelAdapter) -> None:
    asked = {"prompt": "x", "model": "tuned", "idempotency_key": "k"}
    job = client.enqueue(**asked)
    client.admin.load_adapter("tuned", "org/newer", fingerprint="1" * 32)
    assert client.enqueue(**asked) == job
    with pytest.raises(IdempotencyConflict):
        client.enqueue(**asked | {"model": MODEL})
    job.cancel()


def test_a_model_that_is_served_under_an_adapters_name_always_goes_first(
    client: Client, redis: Redis, tuned: ModelAdapter
) -> None:
    redis.hset(keys.models(), "tuned", json.dumps({"id": "tuned", "context_tokens": 4096}))
    jobs = [client.enqueue("x", model="tuned") for _ in range(2)]
    assert [tag_of(job.id).model for job in jobs] == ["tuned"] * 2
    assert [spec_of(redis, job.id).adapter for job in jobs] == [None] * 2
    for job in jobs:
        job.cancel()


def test_a_dropped_adapter_is_refused_as_any_unknown_model(client: Client, tuned: ModelAdapter) -> None:
    client.enqueue("x", model="tuned").cancel()
    client.admin.drop_adapter("tuned")
    with pytest.raises(UnknownModel, match="tuned"):
        client.enqueue("x", model="tuned")


def test_what_can_not_be_an_adapter_is_refused_by_name(
    client: Client, redis: Redis, tuned: ModelAdapter, folder: Path, tmp_path: Path
) -> None:
    load = client.admin.load_adapter
    with pytest.raises(BadPolicy, match="name = 'a b'"):
        load("a b", str(folder), model=MODEL)
    with pytest.raises(BadPolicy, match=f"name = '{MODEL}': is the base model's own"):
        load(MODEL, str(folder), model=MODEL)
    with pytest.raises(BadPolicy, match=r"'relative': is no folder here .* give the fingerprint"):
        load("other", "relative", model=MODEL)
    for odd in ("/" + "x" * 300, "/a\0b", "/\udc80"):
        with pytest.raises(BadPolicy, match="is no folder here"):
            load("other", odd, model=MODEL)
    with pytest.raises(BadPolicy, match="fingerprint = 'abc'"):
        load("other", "org/name", model=MODEL, fingerprint="abc")
    with pytest.raises(UnknownModel, match="nobody"):
        load("other", str(folder), model="nobody")
    redis.hset(keys.models(), "large", json.dumps({"id": "large", "context_tokens": 4096}))
    with pytest.raises(BadPolicy, match="name = 'large': is a model that is served here"):
        load("large", str(folder), model=MODEL)
    with pytest.raises(InvalidJob, match="name one"):
        load("other", str(folder))
    client.admin.set_route("chat", {MODEL: 1})
    with pytest.raises(BadPolicy, match="name = 'chat': is an alias"):
        load("chat", str(folder), model=MODEL)
    with pytest.raises(BadPolicy, match="alias = 'tuned': is an adapter"):
        client.admin.set_route("tuned", {MODEL: 1})
    client.admin.drop_route("chat")
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(BadPolicy, match=r"its adapter_model\.safetensors can't be read"):
        load("other", str(folder), model=MODEL)


def test_there_are_only_so_many_adapters(
    client: Client, tuned: ModelAdapter, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headrace.producers.operate.adapters.MOST_ADAPTERS", 1)
    client.admin.load_adapter("tuned", str(folder), model=MODEL)
    with pytest.raises(BadPolicy, match="1 adapters already"):
        client.admin.load_adapter("another", str(folder), model=MODEL)


def test_adapters_are_loaded_listed_and_dropped_by_command(cli, client: Client, folder: Path) -> None:
    fingerprint = folder_fingerprint(folder)
    assert cli("adapters", "load", "tuned", str(folder)) == f"tuned {MODEL} {fingerprint}\n"
    (listed,) = json.loads(cli("adapters", "list", "--json"))
    assert listed == {"name": "tuned", "base": MODEL, "source": str(folder), "fingerprint": fingerprint}
    assert "FINGERPRINT" in cli("adapters", "list")
    assert cli("adapters", "drop", "tuned") == "tuned is dropped\n"
    assert client.admin.adapters() == {}
