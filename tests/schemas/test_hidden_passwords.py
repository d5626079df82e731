"""A password pasted into a URL as it is must be shown nowhere: errors end in logs and bug trackers."""

import re
from collections.abc import Callable

import pytest
from redis.exceptions import RedisError

from headrace import BadSetting, Client
from headrace.schemas.redis.connection import shown_url, unavailable, without_password
from headrace.schemas.settings.celery import CelerySettings

PASSWORDS = [f"Hidden{character}cret42" for character in "/#?@[]% :&=;,\\\"'"] + [
    "Ro3x<16%3xHO54l]1;ilx$Ae6+lR@%+0TQ6c~19XDS/q1AZ7mM",
    "12345/12345?cret42=12345#cret42",
    "password=Hidden/cret42",
]
URLS = [
    "redis://:{}@127.0.0.1:1/0",
    "rediss://user:{}@127.0.0.1:1/0?client_name=me",
    "redis://{}@127.0.0.1:1/0",
    "redis://:{}",
    "redis+sentinel://:{}@a:1,b:2/main",
    "redis+sentinel://:x@a:1,b:2/main?sentinel_password={}",
    "redis+cluster://user:{}@a:1,[::1]:2",
    "redis://127.0.0.1:1/0?username=u&password={}&db=1",
    "unix://:{}@/run/redis.sock",
    "http://user:{}@127.0.0.1:1",
    "user:{}@127.0.0.1:1",
]
CASES = [
    (url, password)
    for url in URLS
    for password in PASSWORDS
    # Where no @ follows, what follows the password's own is the host; a name before a colon is the user's.
    if not (url == "redis://:{}" and "@" in password)
    and not (url.startswith("redis://{}") and ":" in password)
]


def pieces(password: str) -> set[str]:
    """What would give it away: its longer parts between separators."""
    return {piece for piece in re.split(r"[^\w]", password) if len(piece) >= 4} - {"password"}


@pytest.mark.parametrize(("url", "password"), CASES)
def test_no_url_is_shown_with_its_password(url: str, password: str) -> None:
    shown = shown_url(url.format(password))
    assert not [piece for piece in pieces(password) if piece in shown], shown


@pytest.mark.parametrize(("url", "password"), CASES)
def test_no_error_about_a_url_shows_its_password(
    url: str, password: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADRACE_REDIS_URL", url.format(password))
    for refusal in (refusal_of(Client, url.format(password)), refusal_of(Client.from_env)):
        assert not [piece for piece in pieces(password) if piece in f"{refusal} {refusal!r}"], refusal
        assert refusal is None or (refusal.__cause__ is None and refusal.__suppress_context__)


def refusal_of(make: Callable[..., Client], *arguments: str) -> BadSetting | None:
    try:
        make(*arguments).close()
    except BadSetting as error:
        return error
    return None


@pytest.mark.parametrize("setting", ["celery_broker_url", "celery_result_backend"])
@pytest.mark.parametrize(
    "url", ["amqp://user:{}@host//", "db+postgresql://user:{}@host/db", "sentinel://:x@a;sentinel://:{}@b"]
)
@pytest.mark.parametrize("character", "/#?")
def test_a_celery_url_that_must_be_escaped_says_so_before_celery_quotes_it(
    setting: str, url: str, character: str
) -> None:
    with pytest.raises(BadSetting, match=f"setting {setting} = .*percent-encode the password") as caught:
        CelerySettings.load(**{setting: url.format(f"12{character}cret42")})
    assert "cret42" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        *("memory://", "rpc://", "sqs://", "cache+memcached://a:1;b:2/", "mongodb://a:1,b:2/db?user=x@y"),
        *("amqp://guest:g%2F@h:1//", "redis+socket:///run/r.sock?virtual_host=1", "db+sqlite:///x@y.sqlite"),
        *("kafka://h", "amqps://h/?login_method=a@b", "sentinel://:p@a:1/0;sentinel://:p@b:2/0"),
    ],
)
def test_other_urls_of_celery_are_left_to_it(url: str) -> None:
    assert CelerySettings.load(celery_broker_url=url).celery_broker_url == url


def test_a_setting_that_is_wrong_is_not_quoted_where_it_may_be_secret() -> None:
    with pytest.raises(BadSetting, match="setting celery_broker_transport_options") as caught:
        CelerySettings.load(celery_broker_transport_options='{"password": "hunter2"')
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "can't connect to redis://:hunter2@a:1/0 or amqp://u:hunter2@b",
        "<ConnectionPool(<Connection(host=a,port=1,username=u,password=hunter2,db=0)>)>",
        "Redis(password='hunter2')".replace("'", ""),
        "sentinel://:hunter2@a;sentinel://:hunter2@b",
        "see redis://a?password=hunter2, which is away",
        "redis://hunter2@a",
    ],
)
def test_texts_of_other_libraries_are_shown_without_their_passwords(text: str) -> None:
    assert "hunter2" not in without_password(text)
    assert "hunter2" not in str(unavailable(RedisError(text)))


def test_what_is_no_secret_stays_as_it_is() -> None:
    for text in ("redis://a:1/0?client_name=x", "unix:///run/redis.sock", "redis+cluster://a,[::1]:2"):
        assert shown_url(text) == without_password(text) == text
    for text in ("max_tokens=5, tokens=7", "https://a/b: no answer; ask me@b", "a@b"):
        assert without_password(text) == text
