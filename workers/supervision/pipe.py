"""What the host and an engine process tell each other: JSON lines over a socket pair.

The pipe carries notices only, never a job or its tokens. The end of the stream is a message too: an engine
process whose host is gone hands its jobs over and exits; a host sees at once that an engine process died.
Neither side ever blocks on the other: what the socket can't take now is kept, except `Stats`, which the
next one replaces anyway, and news of jobs beyond `MOST_KEPT_BYTES`, which are only watched.
"""

import json
import select
import socket
from dataclasses import asdict, dataclass, field
from typing import Generic, TypeVar

MOST_KEPT_BYTES = 8 << 20
"""For a side that does not read, being stopped; its jobs go on."""


@dataclass(slots=True, frozen=True)
class LaunchEngine:
    """Host → engine, first of all: what to be. It carries the Redis password, so it is on no command line.

    Attributes:
        worker_id: the name of this incarnation of the engine process.
        index: its place among the host's engine processes, from 0.
        threads: its share of the CPU cores.
        grace_s: how long it may outlive its host.
        settings: `WorkerSettings` as JSON.
        metrics_dir: the folder for `metrics.share`; None when nobody asks for metrics.
    """

    worker_id: str
    index: int
    threads: int
    grace_s: float
    settings: str = field(repr=False)
    metrics_dir: str | None = None


@dataclass(slots=True, frozen=True)
class Drain:
    """Host → engine: claim no more, hand every job over, exit.

    Attributes:
        finish_s: jobs may go on for so long first, to end by themselves.
    """

    finish_s: float = 0.0


@dataclass(slots=True, frozen=True)
class Stop:
    """Host → engine: as `Drain`, but SIGKILL follows within a second."""


@dataclass(slots=True, frozen=True)
class Starting:
    """Engine → host: the process lives and loads its model."""


@dataclass(slots=True, frozen=True)
class Ready:
    """Engine → host: the model is loaded and jobs are claimed from now on."""

    worker_id: str
    model: str
    served_name: str
    pages_total: int
    context_tokens: int


@dataclass(slots=True, frozen=True)
class Stats:
    """Engine → host, about once a second: what it holds now.

    Attributes:
        late: for how many seconds something that should have come on has not: `exchange` with Redis (one
            that fails has), `step` of the engine, `intake`. What has no work is not late.
    """

    running: int
    waiting: int
    pages_total: int
    pages_free: int
    late: dict[str, float] = field(default_factory=dict)
    contact_s: float = 0.0
    trouble: str = ""


@dataclass(slots=True, frozen=True)
class JobStarted:
    """Engine → host: a job runs here from now on; for Flower and `inspect`.

    Attributes:
        task_id: the Celery task that the job is, or else its own id.
        args, kwargs: its arguments, as far as they may be shown.
        root_id, parent_id, retries: of the task, if it is one.
    """

    job_id: str
    task_id: str
    args: str
    kwargs: str
    root_id: str | None = None
    parent_id: str | None = None
    retries: int = 0


@dataclass(slots=True, frozen=True)
class JobLeft:
    """Engine → host: a job runs here no more.

    Attributes:
        how: the terminal state; or why it was given back; or `lost`, when it is another worker's.
        shown: the answer, or the error, as far as it may be shown.
    """

    job_id: str
    how: str
    shown: str = ""


@dataclass(slots=True, frozen=True)
class Drained:
    """Engine → host: done after `Drain`, with this many jobs handed over."""

    released: int


@dataclass(slots=True, frozen=True)
class Fatal:
    """Engine → host: starting again can't help, for this reason (no such model, say)."""

    reason: str


ToEngine = LaunchEngine | Drain | Stop
FromEngine = Starting | Ready | Stats | JobStarted | JobLeft | Drained | Fatal
Message = ToEngine | FromEngine

_BY_NAME: dict[str, type[Message]] = {
    kind.__name__: kind
    for kind in (LaunchEngine, Drain, Stop, Starting, Ready, Stats, JobStarted, JobLeft, Drained, Fatal)
}


def encode(message: Message) -> bytes:
    """One line, its newline included."""
    return json.dumps([type(message).__name__, asdict(message)]).encode() + b"\n"


def decode(line: bytes) -> Message:
    """The message in one line.

    Raises:
        ValueError: it is none; both ends are the same version, so this is a fault and not a dialect.
    """
    try:
        name, fields = json.loads(line)
        return _BY_NAME[name](**fields)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"not a message between host and engine: {line[:80]!r}") from error


Sent = TypeVar("Sent", bound=Message)
Received = TypeVar("Received", bound=Message)


class Pipe(Generic[Sent, Received]):
    """One end of the pair; for one thread.

    Attributes:
        closed: the other side is gone; what it said before has been received.
    """

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self._socket = end
        self._incoming = bytearray()
        self._outgoing = bytearray()
        self._put_back: list[Received] = []
        self.closed = False

    def fileno(self) -> int:
        """For `select`: readable when there is something to receive, the end included."""
        return self._socket.fileno()

    def send(self, message: Sent) -> None:
        """Tell the other side, in order; dropped silently when it is gone (see `closed`)."""
        if self._outgoing and isinstance(message, Stats):
            return
        if len(self._outgoing) > MOST_KEPT_BYTES and isinstance(message, JobStarted | JobLeft):
            return
        self._outgoing += encode(message)
        self._flush()

    def receive(self, wait_s: float = 0.0) -> list[Received]:
        """What the other side has said since the last call; waits up to `wait_s` for it."""
        if wait_s > 0 and not self._put_back:
            select.select([self._socket], [], [], wait_s)
        self._flush()
        try:
            while not self.closed:
                received = self._socket.recv(65536)
                self.closed = not received
                self._incoming += received
        except BlockingIOError:
            pass
        except ConnectionError:
            self.closed = True
        *lines, rest = self._incoming.split(b"\n")
        self._incoming = bytearray(rest)
        messages, self._put_back = self._put_back, []
        messages += [decode(bytes(line)) for line in lines]  # type: ignore[misc]
        return messages

    def receive_one(self, wait_s: float) -> Received | None:
        """The next message alone, None when none came in time; `receive` goes on after it."""
        messages = self.receive(wait_s)
        self._put_back = messages[1:]
        return messages[0] if messages else None

    def close(self) -> None:
        """End it; the other side notices."""
        self._socket.close()
        self.closed = True

    def _flush(self) -> None:
        try:
            while self._outgoing:
                del self._outgoing[: self._socket.send(self._outgoing)]
        except BlockingIOError:
            return
        except OSError:  # the other side is gone; reading says so, after its last words
            self._outgoing.clear()


EnginePipe = Pipe[FromEngine, ToEngine]
"""The engine process's end."""

HostPipe = Pipe[ToEngine, FromEngine]
"""The host's end."""
