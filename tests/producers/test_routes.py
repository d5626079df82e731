"""Model aliases, as operators set them and as gateways ask for them."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from redis import Redis

from headrace import AsyncClient, BadPolicy, Client, ModelRoute
from headrace.schemas import keys

from .conftest import MODEL, ScriptedWorker


def test_an_alias_is_set_changed_and_dropped(client: Client, redis: Redis) -> None:
    route = client.admin.set_route("chat", {"small": 95, "large": 5})
    assert route == ModelRoute(alias="chat", targets={"small": 95, "large": 5})
    client.admin.set_route("best", {"large": 1})
    client.admin.set_route("chat", {"large": 1})
    redis.hset(keys.routes(), "broken", "{")
    assert client.admin.routes() == {
        "best": ModelRoute(alias="best", targets={"large": 1}),
        "chat": ModelRoute(alias="chat", targets={"large": 1}),
    }
    for alias in ("best", "chat", "broken"):
        client.admin.drop_route(alias)
    assert client.admin.routes() == {}
    with pytest.raises(BadPolicy, match="no alias 'chat'"):
        client.admin.drop_route("chat")


def test_an_alias_of_an_alias_is_refused_from_both_sides(client: Client) -> None:
    client.admin.set_route("chat", {"small": 1})
    with pytest.raises(BadPolicy, match="'chat' is an alias itself"):
        client.admin.set_route("talk", {"chat": 1})
    with pytest.raises(BadPolicy, match="'small' is a target of the alias 'chat'"):
        client.admin.set_route("small", {"large": 1})
    # A share of a model's own requests may go elsewhere.
    client.admin.set_route("large", {"large": 95, "larger": 5})
    assert set(client.admin.routes()) == {"chat", "large"}


def test_two_operators_at_once_build_no_chain(client: Client) -> None:
    together = threading.Barrier(2, timeout=30)

    def sets(alias: str, target: str) -> bool:
        together.wait()
        try:
            client.admin.set_route(alias, {target: 1})
        except BadPolicy:
            return False
        return True

    with ThreadPoolExecutor(2) as operators:
        for _ in range(20):
            done = list(operators.map(sets, ("chat", "talk"), ("talk", "chat")))
            (alias,) = client.admin.routes()
            assert sorted(done) == [False, True]
            client.admin.drop_route(alias)


def test_there_are_only_so_many_aliases(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headrace.producers.operate.routes.MOST_ALIASES", 2)
    for alias in ("one", "two", "two"):
        client.admin.set_route(alias, {"m": 1})
    with pytest.raises(BadPolicy, match="2 aliases already"):
        client.admin.set_route("three", {"m": 1})


@pytest.fixture
def kept(redis: Redis) -> Iterator[Callable[[], list[int]]]:
    """The seconds that the choices made for requests with a key still have; there are none at the end."""
    names = keys.routed("*")
    yield lambda: [redis.ttl(name) for name in redis.scan_iter(names)]
    for name in list(redis.scan_iter(names)):
        redis.delete(name)


async def test_a_request_that_is_sent_again_keeps_its_model_whatever_becomes_of_the_alias(
    redis_url: str, kept: Callable[[], list[int]]
) -> None:
    async with AsyncClient(redis_url, idempotency_s=600) as client:
        admin = client.admin

        async def model(asked: str, key: str | None = None) -> str:
            return (await admin.routed_model(asked, who="u", idempotency_key=key)).model

        assert await model("small") == "small"
        await admin.set_route("chat", {"small": 1})
        assert await model("chat", "r") == "small"
        await admin.set_route("chat", {"large": 1})
        assert await model("chat", "r") == "small"
        assert await model("chat", "other") == "large"
        assert await model("chat") == "large"
        await admin.drop_route("chat")
        assert await model("chat", "r") == "small"
        assert await model("chat") == "chat"
    assert len(kept()) == 2


def test_a_choice_is_kept_for_a_minute_and_from_each_acceptance_as_long_as_the_jobs_key(
    redis_url: str, client: Client, kept: Callable[[], list[int]], redis: Redis
) -> None:
    client.admin.set_route("chat", {"m": 1})
    with Client(redis_url, idempotency_s=600) as accepting:
        routed = accepting.admin.routed_model("chat", idempotency_key="r")
        (left,) = kept()
        assert 0 < left <= 60
        assert accepting.admin.routed_model("chat", idempotency_key="r") == routed
        # It may have ended while the job was being accepted.
        redis.delete(*redis.scan_iter(keys.routed("*")))
        accepting.admin.keep_routed(routed)
        (left,) = kept()
        assert 60 < left <= 600
        accepting.admin.keep_routed(accepting.admin.routed_model("m", idempotency_key="r"))
        accepting.admin.keep_routed(accepting.admin.routed_model("chat"))
    assert len(kept()) == 1
    client.admin.drop_route("chat")


def test_a_job_of_before_the_alias_is_found_with_its_key(
    redis_url: str, worker: ScriptedWorker, kept: Callable[[], list[int]]
) -> None:
    with Client(redis_url, partitions=4) as client:
        fields = {"prompt": "x", "model": MODEL, "tenant": "shop", "delay_s": 60}
        jobs = [client.enqueue(**fields, idempotency_key=key) for key in ("one", "two#0", "three")]

        def model(asked: str, key: str, tenant: str = "shop") -> str:
            return client.admin.routed_model(asked, tenant=tenant, idempotency_key=key).model

        client.admin.set_route(MODEL, {"large": 1})
        assert [model(MODEL, key) for key in ("one", "two", "new")] == [MODEL, MODEL, "large"]
        assert model(MODEL, "three", tenant="other") == "large"
        client.admin.drop_route(MODEL)
        client.admin.set_route("chat", {MODEL: 1, "large": 10**6})
        assert model("chat", "three") == MODEL
        client.admin.drop_route("chat")
        for job in jobs:
            job.cancel()


def test_aliases_are_set_listed_and_removed_by_command(
    cli, client: Client, worker: ScriptedWorker, redis: Redis
) -> None:
    redis.zadd(worker.tag.workers, {"w": int(1000 * time.time())})
    said, *warned = cli("routes", "set", "chat", "m=95", "large").splitlines()
    assert said == "chat m=95 large=1"
    assert warned == ["headrace: no worker serves large; requests that get it wait or fail"]
    assert json.loads(cli("routes", "list", "--json")) == [
        {"alias": "chat", "targets": {"m": 95, "large": 1}}
    ]
    assert cli("routes", "list").splitlines()[1].split("\t") == ["chat", "m=95 large=1"]
    assert cli("routes", "remove", "chat") == "chat is removed\n"
    assert client.admin.routes() == {}
    for wrong, said in (("m=x", "'m=x'"), ("m=0", "targets.m = 0"), ("m=", "'m='"), ("=1", "''")):
        assert said in cli("routes", "set", "chat", wrong, status=2)
    assert "'m' is named twice" in cli("routes", "set", "chat", "m=1", "m", status=2)
    assert "no alias 'chat'" in cli("routes", "remove", "chat", status=2)
