"""Which models are served now, and how one that nobody serves any more is forgotten."""

from collections.abc import Callable

import pytest
from redis import Redis

from headrace import AsyncClient, BadSetting, Client, JobNotFound, ModelInUse, UnknownModel
from headrace.schemas import keys
from headrace.schemas.scripts import drain, forget_worker, heartbeat, run

from .conftest import MODEL, ScriptedWorker


def test_models_tell_how_many_workers_live_and_how_many_take_jobs(
    client: Client, redis: Redis, worker: ScriptedWorker
) -> None:
    def seen() -> list[tuple[str, int, int]]:
        return [(model.id, model.workers, model.ready) for model in client.models()]

    redis.hset(keys.models(), "old", '{"id": "old"}')
    assert seen() == [(MODEL, 0, 0), ("old", 0, 0)]
    for name in ("a", "b", "c", "d"):
        run(redis, heartbeat(worker.tag, name, {"pages_free": 1}))
    run(redis, drain(worker.tag, "b", 0))
    redis.zincrby(worker.tag.workers, -30_000, "c")
    redis.zincrby(worker.tag.workers, -90_000, "d")
    assert seen() == [(MODEL, 3, 1), ("old", 0, 0)]


def test_a_model_that_nobody_serves_is_forgotten_and_refused(
    client: Client, redis: Redis, worker: ScriptedWorker, cli: Callable[..., str]
) -> None:
    run(redis, heartbeat(worker.tag, "w", {"pages_free": 1}))
    with pytest.raises(ModelInUse, match="1 of its workers live"):
        client.admin.forget_model(MODEL)
    forget_worker(redis, worker.tag, "w")
    job = client.enqueue("x", model=MODEL, delay_s=60)
    assert "1 of its jobs or their callbacks wait" in cli("models", "forget", MODEL, status=1)
    job.cancel()
    assert "m is forgotten" in cli("models", "forget", MODEL)
    assert cli("models", "--json").strip() == "[]"
    with Client(client._url) as other, pytest.raises(UnknownModel):
        other.enqueue("x", model=MODEL)
    with pytest.raises(UnknownModel):
        client.admin.forget_model(MODEL)


async def test_the_async_client_forgets_too(redis_url: str, worker: ScriptedWorker) -> None:
    async with AsyncClient(redis_url) as client:
        await client.admin.forget_model(MODEL)
        assert await client.models() == []


@pytest.mark.parametrize("nothing", ["", "  ", None])
def test_an_empty_name_chooses_nothing(
    nothing: str | None, client: Client, redis: Redis, worker: ScriptedWorker
) -> None:
    run(redis, heartbeat(worker.tag, "the-only-one", {"pages_free": 1}))
    redis.xadd(worker.tag.dead, {"cause": "malformed entry", "at_ms": 1})  # it names no job
    for attempt in (
        lambda: client.admin.drain_worker(nothing),  # type: ignore[arg-type]
        lambda: client.admin.forget_model(nothing),  # type: ignore[arg-type]
        lambda: client.admin.dead_letter(nothing),  # type: ignore[arg-type]
        lambda: client.admin.delivery(nothing),  # type: ignore[arg-type]
        lambda: client.admin.replay_delivery(nothing),  # type: ignore[arg-type]
    ):
        with pytest.raises(BadSetting, match="must be a name; is a variable unset"):
            attempt()
    with pytest.raises(JobNotFound):
        client.job(nothing)  # type: ignore[arg-type]
    assert redis.hget(worker.tag.worker("the-only-one"), "drain") is None


def test_the_command_line_refuses_an_empty_name(
    redis: Redis, worker: ScriptedWorker, cli: Callable[..., str]
) -> None:
    run(redis, heartbeat(worker.tag, "the-only-one", {"pages_free": 1}))
    redis.xadd(worker.tag.dead, {"cause": "malformed entry", "at_ms": 1})
    for command in (("workers", "drain", ""), ("dead", "drop", "", "-y"), ("webhooks", "replay", "")):
        assert "must be a name" in cli(*command, status=2)
    assert redis.xlen(worker.tag.dead) == 1


@pytest.mark.parametrize("wrong", ["3", True, float("nan"), -1, [1]])
def test_a_limit_that_is_no_number_of_seconds_is_named(wrong: object, client: Client) -> None:
    job = client.enqueue("x", model=MODEL)
    for attempt in (
        lambda: job.result(timeout_s=wrong),  # type: ignore[arg-type]
        lambda: job.stream(timeout_s=wrong),  # type: ignore[arg-type]
        lambda: client.admin.drain_worker("w", finish_s=wrong),  # type: ignore[arg-type]
    ):
        with pytest.raises(BadSetting, match=r"(timeout|finish)_s = .*must be a number of seconds"):
            attempt()


@pytest.mark.parametrize("wrong", ["3", True, -1, 1.5, None])
def test_an_offset_that_is_none_is_named(wrong: object, client: Client) -> None:
    job = client.enqueue("x", model=MODEL)
    with pytest.raises(BadSetting, match=r"from_offset = .*must be a number of tokens, 0 or more"):
        job.stream(from_offset=wrong)  # type: ignore[arg-type]


def test_a_misspelt_argument_is_told_which_was_likely_meant(client: Client) -> None:
    with pytest.raises(TypeError, match="argument 'max_token'; did you mean max_tokens"):
        client.enqueue("x", model=MODEL, max_token=3)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match=r"argument 'colour'$"):
        client.enqueue("x", model=MODEL, colour=3)  # type: ignore[call-arg]
