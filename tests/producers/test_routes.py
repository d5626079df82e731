"""Model aliases, as operators set them and as gateways ask for them."""

import json
import time

import pytest
from redis import Redis

from headrace import AsyncClient, BadPolicy, Client, ModelRoute
from headrace.schemas import keys

from .conftest import ScriptedWorker


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


def test_there_are_only_so_many_aliases(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headrace.producers.operate.routes.MOST_ALIASES", 2)
    for alias in ("one", "two", "two"):
        client.admin.set_route(alias, {"m": 1})
    with pytest.raises(BadPolicy, match="2 aliases already"):
        client.admin.set_route("three", {"m": 1})


async def test_a_request_that_is_sent_again_keeps_its_model_whatever_becomes_of_the_alias(
    redis_url: str, redis: Redis
) -> None:
    async with AsyncClient(redis_url, idempotency_s=600) as client:
        admin = client.admin
        assert await admin.routed_model("small") == "small"
        await admin.set_route("chat", {"small": 1})
        assert await admin.routed_model("chat", who="u", request="r") == "small"
        await admin.set_route("chat", {"large": 1})
        assert await admin.routed_model("chat", who="u", request="r") == "small"
        assert await admin.routed_model("chat", who="u", request="other") == "large"
        assert await admin.routed_model("chat", who="u") == "large"
        await admin.drop_route("chat")
        assert await admin.routed_model("chat", who="u", request="r") == "small"
        assert await admin.routed_model("chat", who="u") == "chat"
    kept = list(redis.scan_iter(keys.routed("*")))
    assert len(kept) == 2
    assert all(0 < redis.ttl(key) <= 600 for key in kept)
    redis.delete(*kept)


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
