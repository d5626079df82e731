"""An engine process's intake process, which loads the tokenizer and forks a place for each lane.

A place is a process that reads one job after the other. A job that takes too long or too much memory ends its
place, and only that; the next one is forked in milliseconds. The kernel enforces it, with a timer and a
memory limit.

    engine process ──order──▶ intake process ──fork──▶ place ◀──jobs── a lane's thread

It is started as `python -m headrace.workers.engine_process.intake.process <fd>`. It ends with its engine
process, however that happens, and with nothing else: a signal that stops a whole service must not end it
while jobs finish.
"""

import gc
import json
import os
import resource
import signal
import socket
import sys
from contextlib import suppress
from dataclasses import asdict, dataclass
from types import FrameType
from typing import Literal

from ....schemas.settings.queue import Limits
from ...supervision.lifeline import at_parents_end
from ..gently import gently
from ..prepared import Asked, Prepared
from ..text import ChatTemplateError, Tokenizer, TokenizerError
from ..text.answer_format import AUTO
from ..text.tokenizer import import_tokenizers
from . import frames
from .reader import Reader

WARM_UP_S = 1.0
"""How long compiling and trying the template may take before the first job."""

QUICK, SLOW = b"q", b"s"
"""The kinds of places: one for quick jobs, and one that gives way to all other work."""

NICE = 5

EARLY = "early"
"""The option, and the message that the imports are done."""


@dataclass(frozen=True, slots=True)
class Order:
    """An intake process's instructions.

    Attributes:
        model: a local folder or Hub name.
        show: how much of a job the host may show.
        quick_s: CPU time that a job may take in a quick place.
        most_s: time that a job may take in any place.
        memory_mb: address space of a place.
        sanitize: treat names of control tokens in messages as plain text.
        max_logprobs, max_prompt_logprobs, max_choices: as in the settings.
        tool_call_parser: the format of the model's calls of tools, or `auto`.
        reasoning_parser: the format of its reasoning, or `auto`.
        score_template: the template of a query and a document, if there is one.
    """

    model: str
    show: Literal["size", "start", "all"]
    quick_s: float
    most_s: float
    memory_mb: int
    sanitize: bool = False
    max_logprobs: int = Limits().max_logprobs
    max_prompt_logprobs: int = Limits().max_prompt_logprobs
    max_choices: int = Limits().max_choices
    tool_call_parser: str = AUTO
    reasoning_parser: str = AUTO
    score_template: str | None = None


def main(control: socket.socket, *, early: bool = False) -> None:
    """Load the tokenizer, report it, and fork places until the engine process is gone.

    Args:
        control: where instructions come from.
        early: whether to import first what most tokenizers need, and to report that.
    """
    at_parents_end(signal.SIGKILL)
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, signal.SIG_IGN)
    if early:
        gently(import_tokenizers)
        frames.send(control, EARLY.encode())
    message = frames.receive(control)
    if message is None:
        return
    order = Order(**json.loads(message))
    try:
        tokenizer = Tokenizer(order.model, sanitize=order.sanitize)
    except TokenizerError as error:
        frames.send(control, json.dumps({"error": str(error)}).encode())
        return
    resource.setrlimit(resource.RLIMIT_AS, (order.memory_mb << 20, order.memory_mb << 20))
    # A core file would hold prompts.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    memory = f"intake_memory_mb={order.memory_mb} allows"
    limits = Limits(
        max_logprobs=order.max_logprobs,
        max_prompt_logprobs=order.max_prompt_logprobs,
        max_choices=order.max_choices,
    )
    reader = Reader(
        tokenizer,
        order.show,
        memory,
        limits,
        order.tool_call_parser,
        order.reasoning_parser,
        order.score_template,
    )
    _warm_up(tokenizer)
    loaded = {
        "tokenizer": _serialized(tokenizer),
        "fingerprint": tokenizer.fingerprint,
        "eos_token_id": tokenizer.eos_token_id,
    }
    frames.send(control, json.dumps(loaded).encode())
    reader.load_grammars()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # places are not waited for
    # Frozen, what is loaded takes part in no collection: one in a place would write to, and so copy, every
    # page that the places share.
    gc.collect()
    gc.freeze()
    _fork_places(control, reader, order)


def _serialized(tokenizer: Tokenizer) -> str | None:
    try:
        return tokenizer.to_json()
    except Exception:  # parts of it are written in Python: the engine process loads it by itself
        return None


def _warm_up(tokenizer: Tokenizer) -> None:
    """Compile the chat template here, or every place would have to; give up on one that doesn't end."""

    def stop(signum: int, frame: FrameType | None) -> None:
        raise ChatTemplateError("it takes too long")

    signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, WARM_UP_S)
    try:
        with suppress(ChatTemplateError):
            tokenizer.chat([{"role": "user", "content": "Hello"}])
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)


def _fork_places(control: socket.socket, reader: Reader, order: Order) -> None:
    while True:
        kind, ends, _, _ = socket.recv_fds(control, 1, 1)
        if not kind:
            return
        if os.fork() == 0:
            control.close()
            try:
                _be_place(socket.socket(fileno=ends[0]), reader, order, kind)
            finally:
                os._exit(0)
        for end in ends:
            os.close(end)


def _be_place(end: socket.socket, reader: Reader, order: Order, kind: bytes) -> None:
    at_parents_end(signal.SIGKILL)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    with suppress(OSError), open("/proc/self/oom_score_adj", "w") as score:  # noqa: PTH123
        score.write("1000")  # if memory runs short, a place is killed before an engine
    if kind == SLOW:
        os.nice(NICE)
    while (message := frames.receive(end)) is not None:
        if kind == QUICK:
            # CPU time, so that a busy machine alone sends nothing to the slow lane; the default of both
            # signals is to end the process, however deep in C it is.
            signal.setitimer(signal.ITIMER_PROF, order.quick_s)
        signal.setitimer(signal.ITIMER_REAL, order.most_s)
        frames.send(end, _answer(reader, message, end))
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.setitimer(signal.ITIMER_PROF, 0)


def _answer(reader: Reader, message: bytes, end: socket.socket) -> bytes:
    frames.send(end, BEGUN)
    prepared = reader.read(Asked.from_wire(message), lambda what: frames.send(end, what.encode()))
    return ANSWER + prepared.to_wire()


BEGUN = b"job"
"""The first message about a job, from which on the job may be the cause if the place ends."""

ANSWER = b"="
"""The beginning of the last message about a job; earlier ones report the place's stage."""


def order_message(order: Order) -> bytes:
    """Encode the instructions."""
    return json.dumps(asdict(order)).encode()


def answer_in(message: bytes) -> Prepared | None:
    """The answer in a place's message; None if it only reports its stage."""
    return Prepared.from_wire(message[len(ANSWER) :]) if message.startswith(ANSWER) else None


if __name__ == "__main__":
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    with suppress(BrokenPipeError, ConnectionResetError):  # the engine process has gone
        main(socket.socket(fileno=int(sys.argv[1])), early=EARLY in sys.argv)
    sys.stdout.flush()
    os._exit(0)
