"""Everything on one machine: Redis (embedded unless one is given), a worker, callbacks, Flower."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from urllib.parse import urlsplit

from ..cli.interrupts import INTERRUPTS, check_interrupts
from ..producers.client import Client
from ..schemas.errors import StackError
from ..schemas.settings.files import FilesSettings
from ..workers.settings import CallbacksSettings
from .embedded_redis import EmbeddedRedis

START_S = 120.0
"""A large model takes long to load; after this many seconds the start has failed."""

STOP_S = 20.0

BESIDE = 5
"""The niceness of everything that runs beside the engines, because they come first on the same few cores."""

ANSWER_S = 1.0
"""After this many seconds without an answer, it is checked whether everything still runs."""

_POLL_S = 0.1


@dataclass(slots=True, frozen=True)
class Part:
    """One process of the stack, and its log file."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def last_words(self) -> str:
        """The last line of its log."""
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it wrote no log"


@dataclass
class Stack:
    """A running stack.

    Attributes:
        redis_url: where producers find it.
        folder: holds the logs, `<part>.log`.
        engines: engine processes of the worker.
        files_url: where the gateway keeps files.
        redis: the embedded Redis; None when another is used.
        gateway_urls: the base URL of each gateway's API.
        flower_url: Flower's page; None if it doesn't run.
    """

    redis_url: str
    folder: Path
    engines: int
    files_url: str
    redis: EmbeddedRedis | None = field(default=None, repr=False)
    flower_url: str | None = None
    gateway_urls: list[str] = field(default_factory=list)
    parts: list[Part] = field(default_factory=list)

    @property
    def gateway_url(self) -> str | None:
        """The base URL of the first gateway's API; None if none runs."""
        return self.gateway_urls[0] if self.gateway_urls else None

    @property
    def log(self) -> Path:
        """The worker's log."""
        return self.folder / "worker.log"

    def check(self) -> None:
        """Check that all parts run and that no interrupt has come.

        Raises:
            StackError: one doesn't run.
            KeyboardInterrupt: SIGINT or SIGTERM has come.
        """
        check_interrupts()
        for part in self.parts:
            status = part.process.poll()
            if status is not None:
                raise StackError(f"{part.name} ended with status {status}: {part.last_words}")

    def wait_ready(self, client: Client) -> None:
        """Wait until every engine serves.

        Raises:
            StackError: a part ended, or the worker isn't ready in time.
        """
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            self.check()
            if len(client.workers()) >= self.engines and all(map(_serves, self.gateway_urls)):
                return
            time.sleep(_POLL_S)
        (worker,) = (part for part in self.parts if part.name == "worker")
        raise StackError(f"the worker is not ready after {START_S:.0f} s: {worker.last_words}")

    def start_gateway(self, listening: socket.socket, *options: str) -> None:
        """Start a gateway that takes over this socket."""
        with listening:
            command = ("headrace.cli", "gateway", "--no-auth", "--fd", str(listening.fileno()), *options)
            self.start(self._gateway_name(), *command, niceness=BESIDE, fds=[listening.fileno()])
            host, port = listening.getsockname()
        self.gateway_urls.append(f"http://{host}:{port}/v1")

    def _gateway_name(self, number: int | None = None) -> str:
        at = len(self.gateway_urls) if number is None else number
        return f"gateway-{at + 1}" if at else "gateway"

    def kill_gateway(self, url: str) -> int:
        """Kill a gateway (`kill -9`), which isn't a part any more; return the process id that it had."""
        name = self._gateway_name(self.gateway_urls.index(url))
        (part,) = (part for part in self.parts if part.name == name)
        part.process.kill()
        part.process.wait()
        self.parts.remove(part)  # last: what is interrupted before leaves it to `stop`
        return part.process.pid

    def start(self, name: str, *module: str, niceness: int = 0, fds: Sequence[int] = ()) -> None:
        """Start `python -m <module>` as a part, which inherits these file descriptors."""
        log = self.folder / f"{name}.log"
        with log.open("wb") as out, _signals_later():
            process = subprocess.Popen(
                [*(("nice", "-n", str(niceness)) if niceness else ()), sys.executable, "-m", *module],
                stdout=out,
                stderr=out,
                pass_fds=fds,
                env=os.environ | {"HEADRACE_REDIS_URL": self.redis_url, "HEADRACE_FILES_URL": self.files_url},
            )
            self.parts.append(Part(name, process, log))

    def stop(self) -> None:
        """End all parts at once, waiting for them in order, and killing those that take too long."""
        for part in self.parts:
            part.process.terminate()
        give_up_at = time.monotonic() + STOP_S
        try:
            for part in self.parts:
                part.process.wait(timeout=max(0.0, give_up_at - time.monotonic()))
        except subprocess.TimeoutExpired:
            pass  # killed below, with everything else that has not ended
        finally:
            for part in self.parts:
                part.process.kill()
                part.process.wait()


def _serves(gateway_url: str) -> bool:
    """Whether a gateway answers; its socket listens before it does."""
    address = urlsplit(gateway_url)
    with (
        suppress(OSError),
        socket.create_connection((address.hostname or "", address.port or 80), ANSWER_S) as probe,
    ):
        probe.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
        probe.recv(1)  # whatever it is: with TLS in its settings it doesn't answer this
        return True
    return False


@contextmanager
def _signals_later() -> Iterator[None]:
    """Delay signals that would interrupt the main thread until a started process is known."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []

    def note(number: int, _: FrameType | None) -> None:
        came.append(number)

    # An interrupt between Popen's fork and the list of parts would leave a process that nobody ends.
    before = {number: signal.signal(number, note) for number in INTERRUPTS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for late in came:
            signal.raise_signal(late)


@contextmanager
def stack(
    folder: Path,
    *,
    redis_url: str | None = None,
    port: int | None = None,
    preferred_port: int | None = None,
    worker_args: Sequence[str] = (),
    worker_command: Sequence[str] | None = None,
    engines: int = 1,
    callbacks_args: list[str] | None = None,
    gateways: Sequence[socket.socket] = (),
    flower_port: int | None = None,
) -> Iterator[Stack]:
    """Start Redis (unless `redis_url` is given), `headrace worker` and the rest; stop everything at the end.

    Args:
        folder: holds Redis's data and the logs.
        redis_url: an existing Redis.
        port: where the embedded Redis listens on loopback.
        preferred_port: where it listens if the port is free; otherwise, or if neither is given, it uses any
            free port.
        worker_args: further options for `headrace worker`.
        worker_command: a module and its arguments that run in place of `headrace worker`.
        engines: engine processes of the worker.
        callbacks_args: further options for `headrace callbacks`, which doesn't run without them.
        gateways: sockets on loopback that listen. A `headrace gateway` without keys takes over each, and it
            is closed here.
        flower_port: where Flower listens on loopback; Flower doesn't run without it.

    Raises:
        BadSetting: naming the first setting that is wrong, before anything is started.
    """
    metrics_port = callbacks_metrics_port()
    metrics_args = [] if metrics_port is None else ["--metrics-port", str(metrics_port)]
    folder.mkdir(parents=True, exist_ok=True)
    with _redis(redis_url, EmbeddedRedis(folder / "redis", port, preferred_port)) as (url, embedded):
        files_url = FilesSettings.load().files_url or (folder.absolute() / "files").as_uri()
        running = Stack(url, folder, engines, files_url, embedded)
        try:
            ours = ("headrace.cli", "worker", "--engines", str(engines), *worker_args)
            running.start("worker", *(worker_command or ours))
            if callbacks_args is not None:
                command = ("headrace.cli", "callbacks", *metrics_args, *callbacks_args)
                running.start("callbacks", *command, niceness=BESIDE)
            for number, listening in enumerate(gateways, 1):
                metrics = () if metrics_port is None else ("--metrics-port", str(metrics_port + number))
                running.start_gateway(listening, *metrics)
            if flower_port is not None:
                place = ("--address=127.0.0.1", f"--port={flower_port}")
                running.start("flower", "celery", "-A", "headrace.celery", "flower", *place, niceness=BESIDE)
                running.flower_url = f"http://127.0.0.1:{flower_port}"
            yield running
        finally:
            running.stop()


def callbacks_metrics_port() -> int | None:
    """The port after the worker's, which reads the same setting; None if neither needs one of its own.

    Raises:
        BadSetting: naming the first setting that is wrong.
    """
    port = CallbacksSettings.load().metrics_port
    return port + 1 if port else None


@contextmanager
def _redis(url: str | None, ours: EmbeddedRedis) -> Iterator[tuple[str, EmbeddedRedis | None]]:
    if url is not None:
        yield url, None
        return
    with ours:
        yield ours.url, ours
