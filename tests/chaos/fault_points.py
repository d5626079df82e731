"""Every place in an engine process where it can be killed between two steps of the protocol.

The points are derived from the code, so that a new step comes with its points: each public method of the
classes through which a job goes, each step of the runner's loop, and each command that reaches Redis, where
`before` and `after` mean that Redis has executed what precedes it in the pipeline, without or with it, and
that no reply is read. All of it wraps the product from outside; the product knows nothing of it.
"""

import inspect
import os
import re
import signal
import typing
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import wraps
from typing import Any

from redis import Redis
from redis.client import Pipeline

from headrace.engine import Engine
from headrace.schemas import scripts
from headrace.schemas.scripts import Call
from headrace.workers.engine_process import flush
from headrace.workers.engine_process import main as engine_process
from headrace.workers.engine_process.intake.lanes import Intake
from headrace.workers.engine_process.link import Link
from headrace.workers.engine_process.registration import Registration
from headrace.workers.engine_process.roster import Roster
from headrace.workers.engine_process.runner import Runner

LATER_TOKENS = 80
"""Tokens after which the moment `later` begins: jobs run, have ended, wait, and were preempted."""

START = ("_build", "_announce")
READS = {
    *("Link.next_at", "Engine.check", "Engine.stats", "Engine.held_tokens", "Roster.held_tokens"),
    *("Intake.overdue_s", "Link.late_s", "Link.contact_s"),
    "Registration.note_refusal",  # it writes a line of the log
    "Engine.end_also_at",  # while the model is loaded
    "Engine.load_adapter",  # it reads a folder, for jobs with an adapter
}
"""Methods that change nothing: dying there is dying at the step before or after."""

READ_COMMANDS = {"XRANGE"}
"""The same of commands: a token log that is read."""

PLAIN_COMMANDS = ("INFO", "HSET", "HGET", "HGETALL", "EXEC", "BLPOP", "ZREM", "DEL")
"""What an engine process sends beside its scripts; a transaction is one command."""

ONCE = {
    *("_build", "_announce", "INFO", "HSET", "HGET", "HGETALL", "EXEC", "BLPOP", "Runner.run"),
    *("Registration.register", "Intake.close"),
    *(
        "Runner._rest",
        "Runner.stop",
        "Runner._hand_over",
        "Link.exchange",
        "Link.close",
        "Queue.leave",
        "ZREM",
        "DEL",
    ),
}
"""Passed at the start, or in the hand-over only."""

BEFORE_ANY_JOB = {*START, "INFO", "HSET", "HGET", "HGETALL", "EXEC", "Registration.register"}
"""First passed before a job is claimed: one process after the other can die there."""


@dataclass(frozen=True, slots=True)
class Fault:
    """SIGKILL at the first passage of a point, once so many tokens have been generated."""

    where: str
    when: str
    after_tokens: int = 0

    def __str__(self) -> str:
        return f"{self.when}-{self.where}-{'later' if self.after_tokens else 'first'}"


def script_names() -> list[str]:
    """The scripts that an engine process sends: the callers that its exchange uses."""
    callers = {name: member for name, member in vars(flush).items() if getattr(scripts, name, None) is member}
    return sorted(
        name
        for name, caller in callers.items()
        if inspect.isfunction(caller) and typing.get_origin(typing.get_type_hints(caller)["return"]) is Call
    )


def methods() -> list[tuple[type, str]]:
    """The steps that are methods: public ones, and those that the runner's loop is made of."""
    loop = re.findall(r"self\.(_\w+)\(", inspect.getsource(Runner.run))
    public = [
        (actor, name)
        for actor in (Runner, Link, flush.Queue, Registration, Roster, Intake, Engine)
        for name, member in vars(actor).items()
        if inspect.isfunction(member) and not name.startswith("_")
    ]
    found = public + [(Runner, name) for name in loop]
    return [(actor, name) for actor, name in found if f"{actor.__name__}.{name}" not in READS]


def faults() -> Iterator[Fault]:
    """All of them."""
    places = [f"{actor.__name__}.{name}" for actor, name in methods()]
    for where in (*START, *places, *script_names(), *PLAIN_COMMANDS):
        for when in ("before", "after"):
            yield Fault(where, when)
            if where not in ONCE:
                yield Fault(where, when, LATER_TOKENS)


@dataclass
class Fuse:
    """Counts passages and generated tokens; blows at its fault.

    Attributes:
        drain_at: tokens after which the process sends itself SIGTERM; None for never.
        asleep: nothing counts.
        records: whether it keeps what was passed.
    """

    fault: Fault | None = None
    drain_at: int | None = None
    tokens: int = 0
    asleep: bool = False
    records: bool = False
    passed: Counter[Fault] = field(default_factory=Counter)

    def passes(self, where: str, when: str) -> None:
        if self.asleep:
            return
        if self.records:
            self.passed[Fault(where, when)] += 1
            self.passed[Fault(where, when, LATER_TOKENS)] += self.tokens >= LATER_TOKENS
        if self.due(where, when):
            self.blow()

    def due(self, where: str, when: str) -> bool:
        fault = self.fault
        return (
            fault is not None
            and (where, when) == (fault.where, fault.when)
            and (self.tokens >= fault.after_tokens)
        )

    def blow(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def generated(self, count: int) -> None:
        self.tokens += 0 if self.asleep else count
        if self.drain_at is not None and self.tokens >= self.drain_at:
            self.drain_at = None
            os.kill(os.getpid(), signal.SIGTERM)


def arm(fuse: Fuse) -> None:
    """Lead every step of this process past `fuse`."""
    _let_sleep_in_the_self_test(fuse)
    for name in START:
        setattr(engine_process, name, _watched(getattr(engine_process, name), name, fuse))
    for actor, name in methods():
        setattr(actor, name, _watched(getattr(actor, name), f"{actor.__name__}.{name}", fuse))
    step = Engine.step

    def counted_step(engine: Engine) -> Any:
        progress = step(engine)
        fuse.generated(sum(len(item.token_ids) for item in progress))
        return progress

    Engine.step = counted_step  # type: ignore[method-assign]
    _arm_commands(fuse)


def _let_sleep_in_the_self_test(fuse: Fuse) -> None:
    test = engine_process.self_test

    def undisturbed(engine: Engine) -> None:
        fuse.asleep = True
        test(engine)
        fuse.asleep = False

    engine_process.self_test = undisturbed


def _watched(function: Callable[..., Any], where: str, fuse: Fuse) -> Callable[..., Any]:
    @wraps(function)
    def watched(*args: Any, **kwargs: Any) -> Any:
        fuse.passes(where, "before")
        result = function(*args, **kwargs)
        fuse.passes(where, "after")
        return result

    return watched


def _arm_commands(fuse: Fuse) -> None:
    names = _names_of_scripts()
    send, send_all = Redis.execute_command, Pipeline.execute

    def execute_command(redis: Redis, *args: Any, **options: Any) -> Any:
        if str(args[0]).upper() in READ_COMMANDS:
            return send(redis, *args, **options)
        return _watched(send, _label(args, names), fuse)(redis, *args, **options)

    def execute(pipeline: Any, raise_on_error: bool = True) -> Any:
        if pipeline.transaction:
            return _watched(send_all, "EXEC", fuse)(pipeline, raise_on_error)
        commands = pipeline.command_stack
        for count, (args, _) in enumerate(commands):
            for when, executed in (("before", count), ("after", count + 1)):
                if fuse.due(_label(args, names), when):
                    pipeline.command_stack = commands[:executed]
                    send_all(pipeline, raise_on_error=False)
                fuse.passes(_label(args, names), when)
        return send_all(pipeline, raise_on_error)

    Redis.execute_command = execute_command  # type: ignore[method-assign]
    Pipeline.execute = execute  # type: ignore[method-assign]


def _names_of_scripts() -> dict[Any, str]:
    from headrace.schemas.redis.call import script

    known = [script(name) for name in script_names()]
    return {entry.sha: entry.name for entry in known} | {entry.source: entry.name for entry in known}


def _label(args: Sequence[Any], names: dict[Any, str]) -> str:
    command = str(args[0]).upper()
    return names.get(args[1], f"EVAL {args[1]}") if command in {"EVAL", "EVALSHA"} else command
