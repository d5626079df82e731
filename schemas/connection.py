"""Connecting to Redis: one place for the protocol, the timeouts, the version check and the errors."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from redis import Redis
from redis.exceptions import AuthenticationError, AuthorizationError, MaxConnectionsError, RedisError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from .errors import BrokerUnavailable

if TYPE_CHECKING:
    from redis.asyncio import Redis as AsyncRedis

MIN_VERSION = (6, 2)

_OPTIONS: dict[str, Any] = {
    "protocol": 2,  # replies have one shape on every server and library version
    "socket_connect_timeout": 5.0,
    "socket_timeout": 15.0,
    "socket_keepalive": True,
    "health_check_interval": 15,
    "retry": None,  # retrying is decided where it is known to be safe
}


def connect(url: str, **options: Any) -> Redis:
    """A connection pool to the Redis at `url`; nothing is sent yet."""
    with _bad_url(url):
        return Redis.from_url(url, **(_OPTIONS | options))


def connect_async(url: str, **options: Any) -> "AsyncRedis":
    """`connect` for asyncio."""
    from redis.asyncio import Redis as AsyncRedis

    with _bad_url(url):
        return AsyncRedis.from_url(url, **(_OPTIONS | options))


@contextmanager
def _bad_url(url: str) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise BrokerUnavailable(
            f"{without_password(url)!r} is not a Redis URL ({error}); write redis://host:6379/0"
        ) from None


def check_version(info: dict[str, Any]) -> None:
    """Refuse a server older than the protocol's floor; `info` is the reply to INFO server.

    Raises:
        BrokerUnavailable: naming the version found and the one needed.
    """
    found = str(info.get("redis_version", "0"))
    version = tuple(int(part) for part in re.findall(r"\d+", found)[:2])
    if version < MIN_VERSION:
        need = ".".join(map(str, MIN_VERSION))
        raise BrokerUnavailable(f"Redis {found} is too old: headrace needs {need} or newer (or Valkey)")


@contextmanager
def broker_errors() -> Iterator[None]:
    """Turn redis-py's errors into `BrokerUnavailable`."""
    try:
        yield
    except RedisError as error:
        raise unavailable(error) from error


def unavailable(error: RedisError) -> BrokerUnavailable:
    """What a Redis error means to the user."""
    message = str(error) or type(error).__name__
    if "OOM command" in message:
        message = "Redis is out of memory (maxmemory) and refuses new data; free memory or raise maxmemory"
    elif "READONLY" in message:
        message = "this Redis is a read-only replica; connect to the primary"
    elif "NOAUTH" in message or "WRONGPASS" in message:
        message = "Redis wants a password; put it into the URL: redis://:password@host:6379/0"
    else:
        message = f"Redis: {message}"
    return BrokerUnavailable(message)


def connection_lost(error: BrokerUnavailable) -> bool:
    """Whether the connection broke or could not be made, and Redis did not refuse: try again."""
    cause = error.__cause__
    refused = isinstance(cause, AuthenticationError | AuthorizationError | MaxConnectionsError)
    return isinstance(cause, RedisConnectionError | RedisTimeoutError | TimeoutError) and not refused


def without_password(url: str) -> str:
    """The URL fit for logs."""
    return re.sub(r"(://[^:@/]*):[^@/]*@", r"\1:***@", url)
