"""Messages between the host and an engine process: JSON lines over a socket pair.

The pipe only carries notices, never a job or its tokens. The end of the stream is a message too: an engine
process whose host is gone hands its jobs over and exits, and a host sees at once that an engine process died.
Neither side ever blocks on the other: what the socket can't accept now is kept, except for `Stats`, which the
next one replaces anyway, and notices about jobs beyond `MOST_KEPT_BYTES`, which are only for display.
"""

import json
import select
import socket
from dataclasses import asdict, dataclass, field
from typing import Generic, TypeVar

GPU_VARIABLE = "CUDA_VISIBLE_DEVICES"

MOST_KEPT_BYTES = 8 << 20
"""Bytes kept for a side that doesn't read, because it is stopped; its jobs continue."""


@dataclass(slots=True, frozen=True)
class LaunchEngine:
    """Host → engine, the first message: its instructions. With the Redis password, so not on a command line.

    Attributes:
        worker_id: the name of this incarnation of the engine process.
        index: its place among the host's engine processes, from 0.
        threads: its share of the CPU cores.
        grace_s: how long it may outlive its host.
        settings: `WorkerSettings` as JSON.
        metrics_dir: the folder for `metrics.share`; None if metrics aren't served.
        gpu: the only GPU that it sees, by CUDA's name for it; None if it doesn't need one.
    """

    worker_id: str
    index: int
    threads: int
    grace_s: float
    settings: str = field(repr=False)
    metrics_dir: str | None = None
    gpu: str | None = None


@dataclass(slots=True, frozen=True)
class Drain:
    """Host → engine: claim no more, hand every job over, exit.

    Attributes:
        finish_s: how long running jobs may take to finish first.
    """

    finish_s: float = 0.0


@dataclass(slots=True, frozen=True)
class Stop:
    """Host → engine: like `Drain`, but SIGKILL follows within a second."""


@dataclass(slots=True, frozen=True)
class Imported:
    """Engine → host, before its instructions: a spare has done its imports and waits for its turn."""


@dataclass(slots=True, frozen=True)
class Starting:
    """Engine → host: the process is alive and is loading its model.

    Attributes:
        download: how far it has come with downloading the model, in words; sent again whenever that changes.
    """

    download: str = ""


@dataclass(slots=True, frozen=True)
class Ready:
    """Engine → host: the model is loaded, and jobs are claimed from now on."""

    worker_id: str
    model: str
    served_name: str
    pages_total: int
    context_tokens: int


@dataclass(slots=True, frozen=True)
class Stats:
    """Engine → host, about once a second: what it holds now.

    Attributes:
        late: for how many seconds each of these has made no progress: `exchange` with Redis (a failing one
            does make progress), `step` of the engine, `intake`. A part without work isn't late.
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
    """Engine → host: a job has started here; for Flower and `inspect`.

    Attributes:
        task_id: the id of the job's Celery task, or else its own id.
        args, kwargs: its arguments, as far as they may be shown.
        root_id, parent_id, retries: those of the task, if there is one.
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
    """Engine → host: a job no longer runs here.

    Attributes:
        how: the terminal state, or why it was given back, or `lost` if it belongs to another worker.
        shown: the answer or the error, as far as it may be shown.
    """

    job_id: str
    how: str
    shown: str = ""


@dataclass(slots=True, frozen=True)
class Drained:
    """Engine → host: finished after `Drain`, with this many jobs handed over."""

    released: int


@dataclass(slots=True, frozen=True)
class Fatal:
    """Engine → host: a restart can't help, for this reason (no such model, for example)."""

    reason: str


ToEngine = LaunchEngine | Drain | Stop
FromEngine = Imported | Starting | Ready | Stats | JobStarted | JobLeft | Drained | Fatal
Message = ToEngine | FromEngine

_BY_NAME: dict[str, type[Message]] = {
    kind.__name__: kind
    for kind in (
        *(LaunchEngine, Drain, Stop),
        *(Imported, Starting, Ready, Stats, JobStarted, JobLeft, Drained, Fatal),
    )
}


def encode(message: Message) -> bytes:
    """Encode a message as one line, including its newline."""
    return json.dumps([type(message).__name__, asdict(message)]).encode() + b"\n"


def decode(line: bytes) -> Message:
    """Decode the message in one line.

    Raises:
        ValueError: it isn't a message. Both ends are of the same version, so this is a bug.
    """
    try:
        name, fields = json.loads(line)
        return _BY_NAME[name](**fields)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"not a message between host and engine: {line[:80]!r}") from error


Sent = TypeVar("Sent", bound=Message)
Received = TypeVar("Received", bound=Message)


class Pipe(Generic[Sent, Received]):
    """One end of the pair. For one thread.

    Attributes:
        closed: whether the other side is gone and everything it sent has been received.
    """

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self._socket = end
        self._incoming = bytearray()
        self._outgoing = bytearray()
        self._put_back: list[Received] = []
        self.closed = False

    def fileno(self) -> int:
        """The file descriptor for `select`, readable when there is something to receive, or at the end."""
        return self._socket.fileno()

    def send(self, message: Sent) -> None:
        """Send a message, in order; it is silently dropped if the other side is gone (see `closed`)."""
        # The other side is not reading: the next one will say the same and more.
        if self._outgoing and isinstance(message, Stats):
            return
        if len(self._outgoing) > MOST_KEPT_BYTES and isinstance(message, JobStarted | JobLeft):
            return
        self._outgoing += encode(message)
        self._flush()

    def receive(self, wait_s: float = 0.0) -> list[Received]:
        """The messages since the last call, waiting for up to `wait_s`."""
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
        # JSON writes newlines as \n, so a newline is the end of a message; `rest` is one that is not whole
        # yet.
        *lines, rest = self._incoming.split(b"\n")
        self._incoming = bytearray(rest)
        # What `receive_one` left comes first.
        messages, self._put_back = self._put_back, []
        messages += [decode(bytes(line)) for line in lines]  # type: ignore[misc]
        return messages

    def receive_one(self, wait_s: float) -> Received | None:
        """Only the next message, or None if none came in time; `receive` continues after it."""
        messages = self.receive(wait_s)
        self._put_back = messages[1:]
        return messages[0] if messages else None

    def close(self) -> None:
        """Close it; the other side notices."""
        self._socket.close()
        self.closed = True

    def _flush(self) -> None:
        try:
            while self._outgoing:
                del self._outgoing[: self._socket.send(self._outgoing)]
        except BlockingIOError:
            return
        except OSError:  # the other side is gone, which reading will show after its last messages
            self._outgoing.clear()


EnginePipe = Pipe[FromEngine, ToEngine]
"""The engine process's end."""

HostPipe = Pipe[ToEngine, FromEngine]
"""The host's end."""
