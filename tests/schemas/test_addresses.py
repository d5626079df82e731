"""Redis URLs: what they mean, and what a wrong one is told."""

import pytest

from headrace import BrokerUnavailable
from headrace.schemas.celery_broker import broker
from headrace.schemas.connection import Address, Kind, connect, connect_async, without_password


def test_a_sentinel_url_names_the_sentinels_the_service_and_the_login():
    url = "rediss+sentinel://u:p%40@a:1,[::1],c/main/3?ssl_ca_certs=/ca.pem&sentinel_password=s"
    address = Address.parse(url)
    assert (address.kind, address.service, address.tls) == (Kind.SENTINEL, "main", True)
    assert address.hosts == (("a", 1), ("::1", 26379), ("c", 26379))
    assert address.options == {"username": "u", "password": "p@", "db": 3, "ssl_ca_certs": "/ca.pem"}
    assert address.sentinel_options == {"password": "s"}


def test_a_cluster_url_names_nodes():
    address = Address.parse("redis+cluster://:p@a:7000,b")
    assert (address.kind, address.hosts) == (Kind.CLUSTER, (("a", 7000), ("b", 6379)))
    assert address.options == {"password": "p", "db": 0}


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("http://x", "redis://host:6379/0"),
        ("redis+sentinel://a:1", "name the Sentinels' service"),
        ("redis+sentinel://a:1/main/x", "must be a number"),
        ("redis+sentinel://a:1,,b/main", "no host in ''"),
        ("redis+cluster://a:1/2", "a Cluster has no databases"),
        ("redis+cluster://", "no host"),
        ("redis+cluster://a:notaport", "notaport"),
    ],
)
@pytest.mark.parametrize("make", [connect, connect_async])
def test_a_wrong_url_is_told_what_is_wrong_with_it(make, url, complaint):
    with pytest.raises(BrokerUnavailable, match=complaint):
        make(url)


@pytest.mark.parametrize(
    "url",
    [
        "redis://:hunter2@a:1",
        "redis+sentinel://u:hunter2@a:1,b:2/main?sentinel_password=hunter2",
        "redis+cluster://:hunter2@a:1,b:2",
    ],
)
def test_passwords_are_in_no_log_and_no_repr(url):
    assert "hunter2" not in without_password(url)
    assert "hunter2" not in repr(Address.parse(url))
    assert "hunter2" not in repr(broker(url, "hr"))


def test_redis_urls_as_celery_writes_them():
    def seen(url: str):
        found = broker(url, "hr")
        return found.url, found.tls

    assert seen("redis://localhost") == ("redis://localhost:6379/0", None)
    assert seen("redis://u:p%40@[::1]:7000/3?protocol=3") == ("redis://u:p%40@[::1]:7000/3", None)
    assert seen("unix:///run/redis.sock?db=2") == ("redis+socket:///run/redis.sock?virtual_host=2", None)
    url, options = seen("rediss://:p@host/1?ssl_ca_certs=/ca.pem")
    assert url == "rediss://:p@host:6379/1"
    assert options == {"ssl_cert_reqs": "required", "ssl_ca_certs": "/ca.pem"}
    sentinel = broker("redis+sentinel://:p@a:1,b:2/main/4", "hr")
    assert sentinel.url == "sentinel://:p@a:1/4;sentinel://:p@b:2/4"
    assert sentinel.transport_options["master_name"] == "main"
    assert broker("redis+cluster://a", "hr") is None
