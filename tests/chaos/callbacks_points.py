"""Every place in `headrace callbacks` where it can be killed between two steps of what follows from a job.

The points are those that an undisturbed process passes: each public method of what relays and delivers, and
each command that reaches Redis from its threads, Celery's own ones within a completion among them, where
they are told apart by the kind of task. So a new step comes with its points. All of it wraps the product from
outside; the product knows nothing of it.
"""

import hashlib
import inspect
import os
import re
import signal
import threading
from collections import Counter
from collections.abc import Callable, MutableSequence, Sequence
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from typing import Any

import celery.backends.redis
import redis.asyncio.client
import redis.client
from httpcore._backends.anyio import AnyIOStream

from headrace.schemas import scripts
from headrace.schemas.redis.call import script
from headrace.workers.callbacks import tasks
from headrace.workers.callbacks.deliveries import Deliveries
from headrace.workers.callbacks.relay import Relay
from headrace.workers.callbacks.tasks import Tasks
from headrace.workers.callbacks.webhooks.sender import Sender

SCRIPTS = {
    "relay": ("accept_delivery",),
    "tasks": ("XCLAIM", "drop_entry"),
    "deliveries": ("claim_deliveries", "settle_delivery"),
    "queues": ("upkeep",),
}
"""What the threads send of their own, at the least."""

READS = {"GET", "MGET", "HGETALL", "HKEYS", "INFO", "LLEN", "TIME", "ZCARD", "ZRANGE"}
READS |= {"XINFO", "XLEN", "XRANGE"}
"""Commands that change nothing: dying there is dying at the step before or after."""

FIRST = {"LLEN", "SADD", "INFO", "HKEYS"}
"""Commands that only the first completion that needs them sends, of whatever kind of task it is."""

NOTED = {"PUBLISH", "chord_cleanup"}
"""A completion's steps with such an end note what went to Celery's broker: a result stored, a chord over."""

KIND = re.compile(r"(\w+):\d+")
"""A prompt says which kind of task it is of, and in which round."""


@dataclass(frozen=True, slots=True, order=True)
class Point:
    """Right before or right after a step: SIGKILL at its first passage."""

    where: str
    when: str

    def __str__(self) -> str:
        return f"{self.when} {self.where}"

    @property
    def relays(self) -> bool:
        """Whether it is a thread that relays, or completes tasks, which is killed at a known step."""
        return self.where.startswith(("complete", "note_started", "relay", "Relay", "tasks", "Tasks"))

    @property
    def is_distinct(self) -> bool:
        """Whether dying here is not the same as at another point: before a step is after the last one."""
        return self.when == "after" and not set(self.where.split()[-1:]) <= READS


def methods() -> list[tuple[type, str]]:
    """The steps that are methods."""
    public = [
        (actor, name)
        for actor in (Relay, Tasks, Deliveries, Sender)
        for name, member in vars(actor).items()
        if inspect.isfunction(member) and not name.startswith("_")
    ]
    return [*public, (AnyIOStream, "write"), (AnyIOStream, "read")]


def expected() -> set[str]:
    """Steps that any passage of a process must have; what is passed tells the rest."""
    found = {f"{thread} {name}" for thread, names in SCRIPTS.items() for name in names}
    return found | {f"{actor.__name__}.{name}" for actor, name in methods()}


@dataclass
class Fuse:
    """Notes passages in their order; blows at its point.

    Attributes:
        in_doubt: one byte that outlives the process: whether a completion has given something to Celery's
            broker, or is about to, that is not noted yet. Killed then, by any thread, it is given again.
    """

    in_doubt: MutableSequence[int]
    point: Point | None = None
    passed: list[Point] = field(default_factory=list)

    def passes(self, where: str, when: str) -> None:
        point, step = Point(where, when), where.split()[-1]
        if when == "after" and (step in NOTED or where == "tasks drop_entry"):
            self.in_doubt[0] = 0
        if point == self.point:
            os.kill(os.getpid(), signal.SIGKILL)
        if when == "before" and step == "LPUSH":
            self.in_doubt[0] = 1
        if point not in self.passed:
            self.passed.append(point)


def arm(fuse: Fuse) -> None:
    """Lead every step of this process past `fuse`."""
    for actor, name in methods():
        setattr(actor, name, _watched(getattr(actor, name), f"{actor.__name__}.{name}", fuse))
    scope = _Scope()
    tasks.complete = scope.within(tasks.complete, "complete")
    tasks.note_started = scope.within(tasks.note_started, "note_started")
    names = {hashlib.sha1(source.encode()).hexdigest(): name for source, name in known_scripts().items()}
    for module in (redis.client, redis.asyncio.client):
        module.Redis.execute_command = _watched_command(module.Redis.execute_command, scope, names, fuse)
        module.Pipeline.execute = _watched_pipeline(module.Pipeline.execute, scope, names, fuse)


class _Scope(threading.local):
    """Whose command it is: a completion's, or the thread's. Celery's own are nobody's."""

    inner: str = ""
    steps: Counter[str]

    def __str__(self) -> str:
        thread = threading.current_thread().name.removeprefix("headrace-").partition("-")[0]
        return self.inner or (thread if thread in SCRIPTS else "")

    def label(self, command: str) -> str:
        """The step, the empty one when it is nobody's; a completion's further ones of a kind are numbered."""
        who = str(self)
        if command == "PING":  # of a new connection, which any step may have to open, or none
            return ""
        if not self.inner:
            return f"{who} {command}" if who else ""
        if command.split()[0] in FIRST:
            return f"complete any {command}"
        self.steps[command] += 1
        return f"{who} {command}" if self.steps[command] == 1 else f"{who} ({self.steps[command]}) {command}"

    def within(self, function: Callable[..., None], name: str) -> Callable[..., None]:
        @wraps(function)
        def scoped(app: Any, message: Any, *args: Any) -> None:
            kind = KIND.search(message.request["kwargs"]["prompt"])
            assert kind is not None
            self.inner, self.steps = f"{name} {kind[1]}" if name == "complete" else name, Counter()
            try:
                function(app, message, *args)
            finally:
                self.inner = ""

        return scoped


def _watched(function: Callable[..., Any], where: str, fuse: Fuse) -> Callable[..., Any]:
    @wraps(function)
    def watched(*args: Any, **kwargs: Any) -> Any:
        fuse.passes(where, "before")
        try:
            return function(*args, **kwargs)
        finally:
            fuse.passes(where, "after")

    @wraps(function)
    async def watched_async(*args: Any, **kwargs: Any) -> Any:
        fuse.passes(where, "before")
        try:
            return await function(*args, **kwargs)
        finally:
            fuse.passes(where, "after")

    return watched_async if inspect.iscoroutinefunction(function) else watched


def _watched_command(
    send: Callable[..., Any], scope: _Scope, names: dict[str, str], fuse: Fuse
) -> Callable[..., Any]:
    def execute_command(client: Any, *args: Any, **options: Any) -> Any:
        label = scope.label(_name(args, names))
        return (_watched(send, label, fuse) if label else send)(client, *args, **options)

    return execute_command


def _watched_pipeline(
    send: Callable[..., Any], scope: _Scope, names: dict[str, str], fuse: Fuse
) -> Callable[..., Any]:
    def execute(pipeline: Any, *args: Any, **options: Any) -> Any:
        commands = [_name(command[0], names) for command in pipeline.command_stack]
        # What only looks asks as much as there is to see: no two looks are the same step.
        label = "" if set(commands) <= READS else scope.label(" ".join(commands))
        return (_watched(send, label, fuse) if label else send)(pipeline, *args, **options)

    return execute


def known_scripts() -> dict[str, str]:
    """The names of headrace's scripts and Celery's, by source; a Redis that knows them all is asked once."""
    files = Path(scripts.__file__).parent.glob("*.lua")
    ours = {script(file.stem).source: file.stem for file in files}
    theirs = {
        source: name.removesuffix("_LUA").lower()
        for name, source in vars(celery.backends.redis).items()
        if name.endswith("_LUA")
    }
    return ours | theirs


def _name(args: Sequence[Any], names: dict[str, str]) -> str:
    command = str(args[0]).upper()
    return names.get(args[1], command) if command == "EVALSHA" else command
