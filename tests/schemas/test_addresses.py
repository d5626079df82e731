"""Redis URLs: what they mean, and what a wrong one is told."""

import ssl

import pytest

from headrace import BadSetting, Client
from headrace.schemas.redis.celery_broker import broker
from headrace.schemas.redis.connection import Address, Kind, connect, connect_async, shown_url


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
        ("http://x", "must begin with redis://"),
        ("redis+sentinel://a:1", "name the Sentinels' service"),
        ("redis+sentinel://a:1/main/x", "must be a number"),
        ("redis+sentinel://a:1,,b/main", "no host is named"),
        ("redis+cluster://a:1/2", "a Cluster has no databases"),
        ("redis+cluster://a:1?db=2", "a Cluster has no databases"),
        ("redis+cluster://", "no host is named"),
        ("redis+cluster://a:notaport", "a numeric port"),
        ("redis://a,b", "several hosts need redis\\+sentinel"),
        ("redis://a:99999", "the port must be 1 to 65535"),
        ("redis://a/x", "must be a number"),
        ("redis://a#x", "# as %23"),
        ("redis://a/0?db=x", "option db must be a number"),
        ("redis://a/0?max_conections=3", "headrace has no option max_conections"),
        ("redis://a/0?ssl_ca_certs=x", "ssl_ca_certs needs TLS: rediss://"),
        ("rediss://a/0?ssl_cert_reqs=maybe", "ssl_cert_reqs must be none, optional or required"),
        ("rediss://a/0?ssl_check_hostname=maybe", "ssl_check_hostname must be true or false"),
        ("rediss://a/0?ssl_min_version=1.0", "ssl_min_version must be 1.2 or 1.3"),
        ("redis://a/0?client_name=a%20b", "client_name must be letters without spaces"),
        ("unix://run/redis.sock", "unix:///run/redis.sock"),
        ("localhost:6379", "must begin with redis://"),
        ("", "must begin with redis://"),
        (None, "is a variable unset"),
        (b"redis://a", "is a variable unset"),
    ],
)
@pytest.mark.parametrize("make", [connect, connect_async, Client])
def test_a_wrong_url_is_told_what_is_wrong_with_it(make, url, complaint):
    with pytest.raises(BadSetting, match=rf"^url = .*is not a Redis URL: .*{complaint}"):
        make(url)


def test_options_are_read_as_what_they_are_and_those_of_other_programs_do_nothing():
    url = (
        "rediss://u:p@Host:1/2?ssl_cert_reqs=CERT_OPTIONAL&ssl_check_hostname=no&ssl_min_version=1.2"
        "&client_name=billing&decode_responses=true&protocol=3&max_connections=2&socket_timeout=0.001"
    )
    address = Address.parse(url)
    assert (address.hosts, address.tls) == ((("host", 1),), True)
    assert address.options == {
        "username": "u",
        "password": "p",
        "db": 2,
        "client_name": "billing",
        "ssl_cert_reqs": "optional",
        "ssl_check_hostname": False,
        "ssl_min_version": ssl.TLSVersion.TLSv1_2,
    }


def test_a_socket_is_named_by_its_path():
    address = Address.parse("unix://u:p@/run/my%20redis.sock?db=3")
    assert (address.path, address.hosts) == ("/run/my redis.sock", ())
    assert address.options == {"username": "u", "password": "p", "db": 3}


@pytest.mark.parametrize("character", [*":@[]% &=+;\"'", "%3x", "ü"])
def test_a_password_may_have_most_characters_as_they_are(character):
    password = f"Hidden{character}cret42"
    address = Address.parse(f"redis://:{password}@127.0.0.1:6379/0")
    assert (address.options["password"], address.hosts) == (password, (("127.0.0.1", 6379),))


@pytest.mark.parametrize("character", "/#?")
@pytest.mark.parametrize("scheme", ["redis", "rediss+sentinel", "redis+cluster", "unix"])
@pytest.mark.parametrize("login", ["", "user"])
def test_a_password_that_must_be_escaped_says_so(character, scheme, login):
    with pytest.raises(BadSetting, match="percent-encode the password: / is %2F") as caught:
        connect(f"{scheme}://{login}:12{character}cret42@host:6379/0")
    assert "cret42" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "redis://:hunter2@a:1",
        "redis+sentinel://u:hunter2@a:1,b:2/main?sentinel_password=hunter2",
        "redis+cluster://:hunter2@a:1,b:2",
        "redis://a?password=hunter2",
        "unix://u:hunter2@/run/redis.sock",
    ],
)
def test_passwords_are_in_no_log_and_no_repr(url):
    assert "hunter2" not in shown_url(url)
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
