"""API keys: made once, kept as hashes, listed, revoked, expired."""

import json
import logging

import pytest

from headrace import ApiKey, AsyncClient, BadPolicy, Client, Unauthorized
from headrace.schemas import keys
from headrace.schemas.redis.acl import Role, acl_line
from headrace.schemas.redis.connection import connect
from headrace.telemetry.logs import _masked


def test_a_key_opens_what_it_was_made_for_until_it_is_revoked(client: Client, redis) -> None:
    made = client.admin.create_api_key("shop", name="till", models=["demo"], classes=["batch"])
    text = made.key.get_secret_value()
    found = client.admin.check_api_key(text)
    assert (found.id, found.tenant, found.models, found.classes) == (made.id, "shop", ("demo",), ("batch",))
    (listed,) = client.admin.api_keys()
    assert type(listed) is ApiKey
    assert listed.used_ms >= made.created_ms
    for wrong in ("", "x", text[:-1], text[:-1] + "\x00", f"hr_{'0' * 16}_{text[-43:]}", text + "\n", "é"):
        with pytest.raises(Unauthorized):
            client.admin.check_api_key(wrong)
    assert client.admin.revoke_api_key(made.id).tenant == "shop"
    with pytest.raises(Unauthorized):
        client.admin.check_api_key(text)
    with pytest.raises(BadPolicy, match="no API key"):
        client.admin.revoke_api_key(made.id)
    assert client.admin.api_keys() == []


def test_the_secret_is_nowhere_but_in_what_create_returned(client: Client, redis) -> None:
    made = client.admin.create_api_key("shop")
    secret = made.key.get_secret_value().rpartition("_")[2]
    stored = b"".join(redis.hgetall(keys.api_keys()).values())
    assert secret.encode() not in stored
    assert secret not in f"{made!r} {made} {made.model_dump_json()} {client.admin.api_keys()!r}"
    assert secret not in _masked(f"refused {made.key.get_secret_value()}")
    assert made.id in _masked(f"refused {made.key.get_secret_value()}")
    assert redis.get(keys.api_key_hash_key()) not in stored


async def test_a_key_whose_time_is_over_opens_nothing(redis_url: str, redis) -> None:
    async with AsyncClient(redis_url) as client:
        made = await client.admin.create_api_key("shop", expires_s=60)
        text = made.key.get_secret_value()
        assert (await client.admin.check_api_key(text)).expires_ms == made.expires_ms
        record = json.loads(redis.hget(keys.api_keys(), made.id)) | {"expires_ms": 1}
        redis.hset(keys.api_keys(), made.id, json.dumps(record))
        with pytest.raises(Unauthorized):
            await client.admin.check_api_key(text)
        redis.hset(keys.api_keys(), made.id, "damaged")
        with pytest.raises(Unauthorized):
            await client.admin.check_api_key(text)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"tenant": "a b"}, "tenant = 'a b'"),
        ({"models": ["x y"]}, "models: 'x y'"),
        ({"classes": ["fast"]}, "classes.0 = 'fast'"),
        ({"classes": []}, "classes"),
        ({"webhook_hosts": ["https://x"]}, "webhook_hosts.0 = 'https://x'"),
        ({"expires_s": 0}, "expires_s = 0"),
    ],
    ids=range(6),
)
def test_a_wrong_key_names_its_field(client: Client, wrong, said: str) -> None:
    with pytest.raises(BadPolicy) as raised:
        client.admin.create_api_key(**{"tenant": "shop", **wrong})
    assert said in str(raised.value)


def test_keys_are_made_listed_and_revoked_by_command(cli, client: Client, caplog) -> None:
    caplog.set_level(logging.DEBUG)
    made = json.loads(cli("keys", "create", "--tenant", "shop", "--class", "batch", "--json"))
    assert client.admin.check_api_key(made["key"]).classes == ("batch",)
    plain = cli("keys", "create", "--tenant", "docs", "--model", "demo", "--expires-days", "1").strip()
    assert client.admin.check_api_key(plain).models == ("demo",)
    assert plain not in caplog.text
    listed = json.loads(cli("keys", "list", "--json"))
    assert {key["tenant"] for key in listed} == {"shop", "docs"}
    table = cli("keys", "list")
    assert "shop" in table
    assert plain[-43:] not in table
    assert "is revoked" in cli("keys", "revoke", made["id"])
    assert "no API key" in cli("keys", "revoke", made["id"], status=2)


def test_a_gateways_user_checks_keys_and_runs_jobs_and_reads_no_webhook_secrets(own_redis) -> None:
    with connect(own_redis.url) as redis, Client(own_redis.url) as operator:
        redis.execute_command(*acl_line(Role.GATEWAY, "g").replace("<password>", "secret").split())
        redis.hset(keys.models(), "demo", '{"id": "demo"}')
        text = operator.admin.create_api_key("shop").key.get_secret_value()
        operator.admin.add_secret("shop")
        operator.admin.set_route("chat", {"demo": 1})
    with Client(own_redis.url.replace("://", "://g:secret@")) as client:
        assert client.admin.check_api_key(text).tenant == "shop"
        job = client.enqueue("x", model="demo", tenant="shop", delay_s=60)
        assert client.admin.tenant("shop").weight == 1
        assert client.admin.routed_model("chat", idempotency_key="r").model == "demo"
        job.cancel()
        with pytest.raises(Exception, match="no permissions"):
            client.admin.secrets("shop")
