"""Operations on the queue as generators, independent of how their requests are performed.

An operation yields requests and is sent their replies, so it is written only once: `drive` performs the
requests with blocking calls, `drive_async` with awaited ones. A lost connection is thrown into the operation,
which decides whether it is safe to ask again.
"""

import random
import time
from collections.abc import Awaitable, Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from ..schemas.errors import BadSetting, BrokerUnavailable
from ..schemas.redis.connection import connection_lost
from ..schemas.scripts import Call
from .mailbox import Listening

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Calls:
    """Scripts in one round trip; the reply has each one's result, or its exception in that place."""

    calls: Sequence[Call[Any]]


@dataclass(frozen=True, slots=True)
class Confirmed:
    """Scripts whose writes replicas must confirm; the reply has the results and how many replicas did."""

    calls: Sequence[Call[Any]]
    replicas: int
    wait_ms: int


@dataclass(frozen=True, slots=True)
class Read:
    """Commands that change nothing, in one round trip; the reply has theirs, in order."""

    commands: Sequence[tuple[str | int, ...]]


@dataclass(frozen=True, slots=True)
class Write:
    """Commands that change something, in one round trip; the reply has theirs, in order.

    They are sent again if their reply is lost, so a second time must do no harm: fields are set to a value or
    deleted, a version may rise twice. Anything else must be a script.
    """

    commands: Sequence[tuple[str | int, ...]]


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Listen:
    """Wait for news in the mailbox; the reply says whether there are any."""

    mailbox: Listening
    seconds: float


@dataclass(frozen=True, slots=True)
class Compute:
    """Compute something that takes long; the reply is its result. In asyncio others have their turns."""

    work: Callable[[], Any]


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """Ask for the server's version; the reply is that of INFO server."""


Request = Call[Any] | Calls | Confirmed | Read | Write | ServerInfo | Pause | Listen | Compute
Steps = Generator[Request, Any, T]


def drive(steps: Steps[T], perform: Callable[[Request], Any]) -> T:
    """Run an operation to its end with blocking calls."""
    try:
        request = next(steps)
        while True:
            try:
                reply = perform(request)
            except BrokerUnavailable as error:
                # Thrown in where the operation asked, so that `persist` can ask again. Any other error ends
                # it.
                request = steps.throw(error)
            else:
                request = steps.send(reply)
    except StopIteration as stop:
        result: T = stop.value
        return result


async def drive_async(steps: Steps[T], perform: Callable[[Request], Awaitable[Any]]) -> T:
    """`drive` for asyncio."""
    try:
        request = next(steps)
        while True:
            try:
                reply = await perform(request)
            except BrokerUnavailable as error:
                request = steps.throw(error)
            else:
                request = steps.send(reply)
    except StopIteration as stop:
        result: T = stop.value
        return result


class Backoff:
    """Growing pauses between tries, jittered so that clients don't retry in step."""

    def __init__(self, first_s: float = 0.05, most_s: float = 2.0) -> None:
        self._first_s, self._most_s = first_s, most_s
        self._next_s = first_s

    def next_s(self) -> float:
        """The pause before the next try."""
        pause_s = self._next_s * random.uniform(0.5, 1.0)
        self._next_s = min(2 * self._next_s, self._most_s)
        return pause_s

    def reset(self) -> None:
        """Start again with short pauses, after a success."""
        self._next_s = self._first_s


def persist(request: Request, patience_s: float) -> Steps[Any]:
    """Return the reply to `request`, which is retried for at most `patience_s` while the connection is lost.

    Every request may be sent twice. A read changes nothing, and a second `Write` nothing more; a script tells
    from its job's state and fence what was done before, or remembers the request
    (`schemas/scripts/lib/once.lua`).
    """
    deadline, backoff = time.monotonic() + patience_s, Backoff()
    while True:
        try:
            return (yield request)
        except BrokerUnavailable as error:
            pause_s = backoff.next_s()
            # A pause that would end after the deadline is not begun: the caller is told now rather than
            # later.
            if not connection_lost(error) or time.monotonic() + pause_s > deadline:
                raise
            yield Pause(pause_s)


def check_name(argument: str, value: object) -> None:
    """Refuse an empty name, which would match every name and is usually an unset variable.

    Raises:
        BadSetting: the message names the argument.
    """
    if not isinstance(value, str) or not value.strip():
        raise BadSetting(f"{argument} = {value!r}: must be a name; is a variable unset?")


def check_seconds(argument: str, value: object) -> None:
    """Refuse anything but a number of seconds, or None for no limit.

    Raises:
        BadSetting: the message names the argument.
    """
    if value is None:
        return
    # `not >=`, which refuses NaN too. True is an int in Python, and never means one second.
    if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
        raise BadSetting(f"{argument} = {value!r}: must be a number of seconds, or None")
