"""Sending scripts to Redis: by hash, alone or pipelined, from sync and async code."""

import hashlib
import re
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

from redis import Redis
from redis.asyncio import Redis as AsyncRedis
from redis.exceptions import NoScriptError, RedisError

from .connection import broker_errors, is_cluster, passing, unavailable

R = TypeVar("R")
Arg = str | bytes | int | float

_FOLDER = Path(__file__).parents[1] / "scripts"
_USES = re.compile(r"^-- uses: (.+)$", re.MULTILINE)
_ARGS = re.compile(r"^-- args: (.+(?:\n--   .+)*)$", re.MULTILINE)
_BINDINGS = {"": "ARGV[{}]", "number": "tonumber(ARGV[{}])", "flag": "ARGV[{}] == '1'"}


@dataclass(frozen=True, slots=True)
class Script:
    """A Lua file, preceded by the libraries that it uses, and the names of its arguments.

    Its line `-- args:` declares them: `name` is a string in Lua, `name:number` a number and `name:flag` a
    boolean. A last `name...` stands for all that follow, from the index `name_from` on.

    Attributes:
        args: the names, without that of the rest.
        rest: the name of the rest; empty when there is none.
    """

    name: str
    source: str
    sha: str
    args: tuple[str, ...]
    rest: str

    def call(self, base: str, parse: "Callable[[Any], R]", /, *rest: Arg, **args: Arg) -> "Call[R]":
        """The script with its arguments by name; `rest` follows them.

        Raises:
            TypeError: an argument is missing, or the script has none of that name.
        """
        if args.keys() != set(self.args) or (rest and not self.rest):
            raise TypeError(f"script {self.name} takes {self.args}, not {tuple(args)} and {len(rest)} more")
        return Call(self, base, (*(args[name] for name in self.args), *rest), parse)


@cache
def script(name: str) -> Script:
    """Read the script in `<name>.lua`.

    Redis runs all of a script's source at each call, so a library's definitions cost every script that uses
    it.
    """
    parts: dict[Path, str] = {}
    path = _FOLDER / f"{name}.lua"
    _add(path, parts)
    own = parts.pop(path)
    args, rest, binding = _declared(own)
    source = "\n".join((*parts.values(), binding, own))
    # By this name Redis knows a script that it has been sent before.
    sha = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()
    return Script(name, source, sha, args, rest)


def _declared(lua: str) -> tuple[tuple[str, ...], str, str]:
    """What a script's line `-- args:` names, the rest, and the Lua that gives its locals their values."""
    # An example: `-- args: entry from_scratch:flag request` becomes `local entry, from_scratch, request =
    # ARGV[1], ARGV[2] == '1', ARGV[3]`.
    declared = _ARGS.search(lua)
    words = re.sub(r"\n--", "", declared[1]).split() if declared else []
    rest = words.pop().removesuffix("...") if words and words[-1].endswith("...") else ""
    names, kinds = [word.partition(":")[0] for word in words], [word.partition(":")[2] for word in words]
    values = [_BINDINGS[kind].format(index) for index, kind in enumerate(kinds, start=1)]
    bound = [*names, *([f"{rest}_from"] if rest else [])]
    values += [str(len(names) + 1)] if rest else []
    return tuple(names), rest, f"local {', '.join(bound)} = {', '.join(values)}" if bound else ""


def _add(path: Path, parts: dict[Path, str]) -> None:
    """Add a file after the libraries that its line `-- uses: ` names, and those that they use."""
    lua = path.read_text()
    uses = _USES.search(lua)
    for name in uses[1].split() if uses else ():
        library = _FOLDER / "lib" / f"{name}.lua"
        if library not in parts:
            _add(library, parts)
    parts[path] = lua


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


def new_request() -> str:
    """The name of one request, for scripts that know by it when the same call is sent again."""
    return secrets.token_hex(8)


def run(redis: Redis, call: Call[R]) -> R:
    """Run one call.

    Raises:
        BrokerUnavailable: Redis can't be reached or refuses.
        HeadraceError: the script refused; each caller documents its errors.
    """
    return cast("R", one(run_many(redis, [call])))


async def run_async(redis: AsyncRedis, call: Call[R]) -> R:
    """`run` for asyncio."""
    return cast("R", one(await run_many_async(redis, [call])))


def one(results: list[Any]) -> Any:
    """Return the only result.

    Raises:
        Exception: the result is an exception.
    """
    (result,) = results
    if isinstance(result, Exception):
        raise result
    return result


def run_many(redis: Redis, calls: Sequence[Call[Any]]) -> list[Any]:
    """Run calls in order, in one round trip; each item is the call's result or the exception that it raised.

    Raises:
        BrokerUnavailable: Redis could not be reached; which calls took effect is then unknown.
    """
    with broker_errors():
        replies = _send(redis, [call.by_hash for call in calls])
        unknown = _unknown(replies)
        if unknown:
            # Redis was restarted, or its scripts were flushed. Only those that it did not know are sent: the
            # others have run.
            again = _send(redis, [calls[i].by_source for i in unknown])
            for i, reply in zip(unknown, again, strict=True):
                replies[i] = reply
    return _parse_all(calls, replies)


def run_confirmed(
    redis: Redis, calls: Sequence[Call[Any]], replicas: int, wait_ms: int
) -> tuple[list[Any], int]:
    """`run_many`, plus how many replicas confirm the writes within `wait_ms` (not on a Cluster)."""
    with broker_errors():
        replies = _send(redis, [*(call.by_hash for call in calls), ("WAIT", replicas, wait_ms)])
        if _unknown(replies):
            # All again, as WAIT must come after the writes; those that have run know by their id or fence
            # that they have.
            replies = _send(redis, [*(call.by_source for call in calls), ("WAIT", replicas, wait_ms)])
    return _parse_all(calls, replies[:-1]), int(replies[-1])


async def run_confirmed_async(
    redis: AsyncRedis, calls: Sequence[Call[Any]], replicas: int, wait_ms: int
) -> tuple[list[Any], int]:
    """`run_confirmed` for asyncio."""
    with broker_errors():
        replies = await _send_async(redis, [*(call.by_hash for call in calls), ("WAIT", replicas, wait_ms)])
        if _unknown(replies):
            sources = [call.by_source for call in calls]
            replies = await _send_async(redis, [*sources, ("WAIT", replicas, wait_ms)])
    return _parse_all(calls, replies[:-1]), int(replies[-1])


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
    failed_over = next((reply for reply in replies if passing(reply)), None)
    if failed_over is not None:
        if not is_cluster(redis):
            with (
                redis.client() as latest
            ):  # the next caller looks for the primary again; the others keep theirs
                latest.connection.disconnect()
        raise failed_over
    return replies


async def _send_async(redis: AsyncRedis, commands: list[tuple[Arg, ...]]) -> list[Any]:
    pipe = redis.pipeline(transaction=False)
    for command in commands:
        pipe.execute_command(*command)
    replies: list[Any] = await pipe.execute(raise_on_error=False)
    failed_over = next((reply for reply in replies if passing(reply)), None)
    if failed_over is not None:
        if not is_cluster(redis):
            async with redis.client() as latest:
                assert latest.connection is not None
                await latest.connection.disconnect()
        raise failed_over
    return replies


def _unknown(replies: list[Any]) -> list[int]:
    return [i for i, reply in enumerate(replies) if isinstance(reply, NoScriptError)]


def _parse_all(calls: Sequence[Call[Any]], replies: list[Any]) -> list[Any]:
    return [_parse(call, reply) for call, reply in zip(calls, replies, strict=True)]


def _parse(call: Call[R], reply: object) -> R | Exception:
    if isinstance(reply, RedisError):
        refusal = unavailable(reply)
        refusal.__cause__ = reply
        return refusal
    try:
        return call.parse(reply)
    except Exception as error:  # returned to the caller in place of the item
        return error


def text(value: bytes | str) -> str:
    """A reply as a string, whether or not the connection decodes responses."""
    return value.decode() if isinstance(value, bytes) else value
