"""What a server refuses is told with the way out, whatever redis-py has left of its words."""

import re
import socket
import traceback

import pytest
from redis import Redis

from headrace import BrokerUnavailable, Client
from headrace.schemas.redis.connection import broker_errors, connect, connect_async, connection_lost


@pytest.fixture
def server(own_redis):
    """A Redis with a password, and with one user who may only read; its administrator."""
    with Redis.from_url(own_redis.url) as admin:
        admin.execute_command("ACL", "SETUSER", "reader", "on", ">pw", "~*", "+get", "+ping")
        admin.config_set("requirepass", "secret")
        yield admin


def refusal_of(own_redis, login: str) -> BrokerUnavailable:
    url = own_redis.url.replace("redis://", f"redis://{login}")
    with connect(url) as redis, pytest.raises(BrokerUnavailable) as raised, broker_errors():
        redis.set("k", 1)
    return raised.value


@pytest.mark.parametrize(
    ("login", "said"),
    [
        ("", r"Authentication required; put the right password into the URL: redis://:password@host"),
        (":wrong@", r"put the right password into the URL: redis://:password@host"),
        ("reader:pw@", r"has no permissions to run the 'set' command.*`headrace acl` prints"),
    ],
)
def test_a_login_that_does_not_do_is_told_what_would(own_redis, server, login, said):
    refusal = refusal_of(own_redis, login)
    assert re.search(said, str(refusal)), refusal
    assert not connection_lost(refusal)


def test_a_password_that_nobody_asked_for_and_a_database_that_is_not_there_are_told(own_redis):
    assert "asks for no password, but the URL has one" in str(refusal_of(own_redis, ":pw@"))
    url = own_redis.url.replace("/0", "/99")
    told = pytest.raises(BrokerUnavailable, match="no database with this number")
    with connect(url) as redis, told, broker_errors():
        redis.ping()


def test_a_read_only_replica_is_named_and_asked_again(own_redis, server):
    server.execute_command("REPLICAOF", "127.0.0.1", "1")
    refusal = refusal_of(own_redis, ":secret@")
    assert str(refusal) == "this Redis is a read-only replica; connect to the primary"
    assert connection_lost(refusal)  # in a failover the next one to answer is the primary


def test_a_script_on_a_read_only_replica_is_asked_again(own_redis, server):
    server.execute_command("REPLICAOF", "127.0.0.1", "1")
    url, refused = own_redis.url.replace("redis://", "redis://:secret@"), pytest.raises(BrokerUnavailable)
    with connect(url) as redis, refused as raised, broker_errors():
        redis.eval("return redis.call('SET', KEYS[1], 1)", 1, "k")
    assert "read-only replica" in str(raised.value)
    assert connection_lost(raised.value)


async def test_where_nothing_listens_the_way_out_is_told():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"redis://127.0.0.1:{taken.getsockname()[1]}/0"
    told = r"nothing listens there: correct the URL, or start a Redis \(to try .*, `headrace up` starts one\)"
    with connect(url) as redis, pytest.raises(BrokerUnavailable, match=told) as raised, broker_errors():
        redis.ping()
    assert connection_lost(raised.value)
    async with connect_async(url) as redis:
        with pytest.raises(BrokerUnavailable, match=told), broker_errors():
            await redis.ping()


def test_a_redis_that_is_away_is_told_of_in_a_few_lines(free_port):
    with Client(f"redis://127.0.0.1:{free_port}/0", retry_s=0) as client:
        with pytest.raises(BrokerUnavailable) as raised:
            client.models()
        lines = "".join(traceback.format_exception(raised.value)).splitlines()
    assert len(lines) < 40
    assert not any("During handling" in line for line in lines)
    assert "nothing listens there" in lines[-1]
