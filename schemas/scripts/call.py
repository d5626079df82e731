"""Sending scripts to Redis: by hash, alone or pipelined, from sync and async code."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Generic, TypeVar

from redis import Redis
from redis.asyncio import Redis as AsyncRedis
from redis.exceptions import NoScriptError, RedisError

from ..connection import broker_errors, unavailable

R = TypeVar("R")
Arg = str | bytes | int | float

_FOLDER = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Script:
    """A Lua file behind the shared prelude."""

    name: str
    source: str
    sha: str


@cache
def script(name: str) -> Script:
    """The script in `<name>.lua`."""
    source = (_FOLDER / "prelude.lua").read_text() + "\n" + (_FOLDER / f"{name}.lua").read_text()
    return Script(name, source, hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest())


@dataclass(frozen=True, slots=True)
class Call(Generic[R]):
    """A script with its arguments and the meaning of its reply.

    Attributes:
        base: the tag's prefix, KEYS[1] of every script.
        parse: turns Redis's reply into the result; it may raise a `HeadraceError`.
    """

    script: Script
    base: str
    args: Sequence[Arg]
    parse: Callable[[Any], R] = field(repr=False)

    @property
    def by_hash(self) -> tuple[Arg, ...]:
        """The EVALSHA command."""
        return ("EVALSHA", self.script.sha, 1, self.base, *self.args)

    @property
    def by_source(self) -> tuple[Arg, ...]:
        """The EVAL command, which also makes Redis remember the script."""
        return ("EVAL", self.script.source, 1, self.base, *self.args)


def run(redis: Redis, call: Call[R]) -> R:
    """Run one call.

    Raises:
        BrokerUnavailable: Redis can't be reached or refuses.
        HeadraceError: what the script's answer means, as each caller documents.
    """
    with broker_errors():
        try:
            reply = redis.execute_command(*call.by_hash)
        except NoScriptError:
            reply = redis.execute_command(*call.by_source)
    return call.parse(reply)


async def run_async(redis: AsyncRedis, call: Call[R]) -> R:
    """`run` for asyncio."""
    with broker_errors():
        try:
            reply = await redis.execute_command(*call.by_hash)
        except NoScriptError:
            reply = await redis.execute_command(*call.by_source)
    return call.parse(reply)


def run_many(redis: Redis, calls: Sequence[Call[Any]]) -> list[Any]:
    """Run calls in order in one round trip; each item is its call's result, or the exception it raised.

    Raises:
        BrokerUnavailable: Redis could not be reached; which calls took effect is then unknown.
    """
    with broker_errors():
        replies = _send(redis, [call.by_hash for call in calls])
        unknown = _unknown(replies)
        if unknown:
            again = _send(redis, [calls[i].by_source for i in unknown])
            for i, reply in zip(unknown, again, strict=True):
                replies[i] = reply
    return _parse_all(calls, replies)


async def run_many_async(redis: AsyncRedis, calls: Sequence[Call[Any]]) -> list[Any]:
    """`run_many` for asyncio."""
    with broker_errors():
        replies = await _send_async(redis, [call.by_hash for call in calls])
        unknown = _unknown(replies)
        if unknown:
            again = await _send_async(redis, [calls[i].by_source for i in unknown])
            for i, reply in zip(unknown, again, strict=True):
                replies[i] = reply
    return _parse_all(calls, replies)


def _send(redis: Redis, commands: list[tuple[Arg, ...]]) -> list[Any]:
    pipe = redis.pipeline(transaction=False)
    for command in commands:
        pipe.execute_command(*command)
    replies: list[Any] = pipe.execute(raise_on_error=False)
    return replies


async def _send_async(redis: AsyncRedis, commands: list[tuple[Arg, ...]]) -> list[Any]:
    pipe = redis.pipeline(transaction=False)
    for command in commands:
        pipe.execute_command(*command)
    replies: list[Any] = await pipe.execute(raise_on_error=False)
    return replies


def _unknown(replies: list[Any]) -> list[int]:
    return [i for i, reply in enumerate(replies) if isinstance(reply, NoScriptError)]


def _parse_all(calls: Sequence[Call[Any]], replies: list[Any]) -> list[Any]:
    return [_parse(call, reply) for call, reply in zip(calls, replies, strict=True)]


def _parse(call: Call[R], reply: object) -> R | Exception:
    if isinstance(reply, RedisError):
        return unavailable(reply)
    try:
        return call.parse(reply)
    except Exception as error:  # handed to the caller in the item's place
        return error


def text(value: bytes | str) -> str:
    """A reply's string, whatever the connection's `decode_responses` is."""
    return value.decode() if isinstance(value, bytes) else value
