"""What Redis's errors mean: whether to retry, and what to tell the user."""

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    BusyLoadingError,
    ClusterDownError,
    MasterDownError,
    MaxConnectionsError,
    NoPermissionError,
    ReadOnlyError,
    RedisClusterException,
    RedisError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from ...errors import BrokerUnavailable
from .masking import without_password

MIN_VERSION = (6, 2)

_PASSING = (ReadOnlyError, BusyLoadingError, MasterDownError, ClusterDownError, TryAgainError)
"""Errors of a server that isn't the primary, or not yet: another server will soon accept what it refuses.

redis-py removes codes that it knows from the message, so the class tells; a script's error may still contain
one.
"""

_PASSING_CODE = re.compile(r"\b(READONLY|LOADING|MASTERDOWN|CLUSTERDOWN|TRYAGAIN|FAILOVER|UNBLOCKED)\b")

_REFUSED = re.compile(rf"\b(Error|Errno) {errno.ECONNREFUSED}\b")
"""redis-py's wording when nothing listens."""


def check_version(info: dict[str, Any]) -> None:
    """Refuse a server that is too old; `info` is the reply to INFO server.

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
    except (RedisError, RedisClusterException) as error:
        raise unavailable(error) from error


def unavailable(error: Exception) -> BrokerUnavailable:
    """Translate a Redis error for the user, with the error itself as its cause but without its traceback.

    That is some seventy lines of redis-py's own, and would stand in front of the one sentence that helps.
    """
    error.__context__ = error.__traceback__ = None
    message = without_password(str(error)) or type(error).__name__
    if "used memory > 'maxmemory'" in message:  # redis-py may have removed its code, OOM
        message = "Redis is out of memory (maxmemory) and refuses new data; free memory or raise maxmemory"
    elif isinstance(error, ReadOnlyError) or "READONLY" in message:
        message = "this Redis is a read-only replica; connect to the primary"
    elif "DB index is out of range" in message:
        message = (
            "Redis has no database with this number; it is the last part of the URL, redis://host:6379/0"
        )
    elif "without any password configured" in message:
        message = (
            "this Redis asks for no password, but the URL has one: remove it (redis://host:6379/0), "
            "or set one in Redis (requirepass)"
        )
    elif isinstance(error, AuthenticationError):
        message = (
            f"Redis: {message.rstrip('.')}; put the right password into the URL: "
            "redis://:password@host:6379/0, or redis://user:password@host:6379/0"
        )
    elif isinstance(error, NoPermissionError) or "NOPERM" in message:
        message = f"Redis: {message}; `headrace acl` prints the rights that this user needs"
    elif _REFUSED.search(message):
        way_out = "correct the URL, or start a Redis (to try headrace out, `headrace up` starts one)"
        message = f"Redis: {message.rstrip('.')}; nothing listens there: {way_out}"
    else:
        message = f"Redis: {message}"
    return BrokerUnavailable(message)


def passing(error: object) -> bool:
    """Whether a server refused because of its present state, as in a failover: retry on a new connection."""
    return isinstance(error, RedisError) and (
        isinstance(error, _PASSING) or _PASSING_CODE.search(str(error)) is not None
    )


def connection_lost(error: BrokerUnavailable) -> bool:
    """Whether to retry: the connection broke, could not be made, or Redis is failing over."""
    cause = error.__cause__
    if isinstance(cause, AuthenticationError | AuthorizationError | MaxConnectionsError):
        return False
    lost = (RedisConnectionError, RedisTimeoutError, TimeoutError, RedisClusterException)
    return isinstance(cause, lost) or passing(cause)
