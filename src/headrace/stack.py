"""Everything on one machine: Redis (embedded unless one is given) and a worker."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from .producers.client import Client
from .workers.embedded_redis import EmbeddedRedis

START_S = 120.0
"""A large model takes its time to load; after this the start has failed."""

STOP_S = 20.0


class StackError(RuntimeError):
    """The stack could not be started; the message says which part and why."""


@dataclass
class Stack:
    """A running stack.

    Attributes:
        redis_url: where producers find it.
        worker: the `headrace worker` process.
        log: the worker's log file.
    """

    redis_url: str
    worker: subprocess.Popen[bytes]
    log: Path
    engines: int
    redis: EmbeddedRedis | None = field(default=None, repr=False)

    def wait_ready(self, client: Client) -> None:
        """Wait until every engine serves.

        Raises:
            StackError: the worker ended, or is not ready in time.
        """
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            if self.worker.poll() is not None:
                raise StackError(
                    f"the worker ended with status {self.worker.returncode}: {self._last_words()}"
                )
            if len(client.workers()) >= self.engines:
                return
            time.sleep(0.1)
        raise StackError(f"the worker is not ready after {START_S:.0f} s: {self._last_words()}")

    def _last_words(self) -> str:
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it wrote no log"


@contextmanager
def stack(
    folder: Path, *, redis_url: str | None = None, worker_args: list[str], engines: int = 1
) -> Iterator[Stack]:
    """Start Redis (unless `redis_url` is given) and `headrace worker`; stop both at the end.

    Args:
        folder: holds Redis's data and the worker's log.
        redis_url: an existing Redis.
        worker_args: further options of `headrace worker`.
        engines: engine processes of the worker.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with _redis(folder, redis_url) as (url, embedded):
        log = folder / "worker.log"
        command = [sys.executable, "-m", "headrace.cli", "worker", "--engines", str(engines), *worker_args]
        with log.open("wb") as out:
            worker = subprocess.Popen(
                command, stdout=out, stderr=out, env=os.environ | {"HEADRACE_REDIS_URL": url}
            )
        try:
            yield Stack(url, worker, log, engines, embedded)
        finally:
            _stop(worker)


@contextmanager
def _redis(folder: Path, url: str | None) -> Iterator[tuple[str, EmbeddedRedis | None]]:
    if url is not None:
        yield url, None
        return
    with EmbeddedRedis(folder / "redis") as embedded:
        yield embedded.url, embedded


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    try:
        process.wait(timeout=STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def up(folder: Path, *, redis_url: str | None, worker_args: list[str], engines: int) -> None:
    """Keep a stack running until Ctrl-C or SIGTERM.

    Raises:
        StackError: it could not be started, or its worker ended.
    """
    stop = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: stop.append(number))
    with (
        stack(folder, redis_url=redis_url, worker_args=worker_args, engines=engines) as running,
        Client(running.redis_url) as client,
    ):
        running.wait_ready(client)
        models = ", ".join(model.id for model in client.models())
        print(f"ready: {models} on {running.redis_url} (log: {running.log}); Ctrl-C stops everything")  # noqa: T201
        while not stop:
            if running.worker.poll() is not None:
                raise StackError(
                    f"the worker ended with status {running.worker.returncode}; see {running.log}"
                )
            time.sleep(0.2)
