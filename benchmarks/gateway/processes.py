"""The processes that are measured: Redis, a worker whose model costs nothing, a gateway, a raw reader."""

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from headrace import Client
from headrace.local.embedded_redis import EmbeddedRedis
from headrace.schemas.keys import Tag

from ..ceiling import ROOT, costless_worker, spent_s, wait_until

__all__ = ["Measured", "Reader", "gateway", "raise_open_files", "reader", "service", "settled_rss", "spent_s"]

FULL, PAUSE = "4096 0", "0 0.02"


def raise_open_files(needed: int) -> None:
    """Let this process and its children have so many files open.

    Raises:
        SystemExit: the hard limit doesn't.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise SystemExit(
            f"{needed:,} files must be open at once, and the hard limit is {hard:,}: raise it (ulimit -Hn, "
            "LimitNOFILE=), or measure fewer --streams"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


@dataclass(slots=True)
class Measured:
    """What runs.

    Attributes:
        url: of Redis.
        worker: its host's process.
        pace: the file that says how fast the worker is; see `benchmarks.costless`.
    """

    url: str
    worker: "subprocess.Popen[bytes]"
    pace: Path

    def run(self, at_once: int, tokens_per_s: float) -> None:
        """Generate so many tokens a second, for so many jobs in a step."""
        self._pace(f"{at_once} {at_once / tokens_per_s}")

    def run_freely(self) -> None:
        """Generate as fast as possible."""
        self._pace(FULL)

    def pause(self) -> None:
        """Generate nothing."""
        self._pace(PAUSE)

    def _pace(self, pace: str) -> None:
        part = self.pace.with_suffix(".part")  # the engine reads it at every step: never half of it
        part.write_text(pace)
        part.replace(self.pace)


@contextmanager
def service(folder: Path, streams: int) -> Iterator[Measured]:
    """Redis, and a worker that runs so many jobs at once."""
    pace = folder / "pace"
    pace.write_text(FULL)
    os.environ["COSTLESS_PACE"] = str(pace)
    with (
        EmbeddedRedis() as server,
        Client(server.url) as client,
        costless_worker(server.url, ROOT, streams, folder / "worker.log") as worker,
    ):
        wait_until(client.workers, worker)
        yield Measured(server.url, worker, pace)


@contextmanager
def gateway(checkout: Path, url: str, folder: Path) -> Iterator[tuple[str, psutil.Process]]:
    """The gateway of that checkout; its URL with `/v1`, and its process."""
    command = ("-m", "headrace.cli", "gateway", "--port", "0", "--no-auth", "--redis", url)
    environment = os.environ | {"PYTHONPATH": str(checkout / "src")}
    log = folder / "gateway.log"
    with (
        log.open("wb") as out,
        subprocess.Popen(
            [sys.executable, *command], cwd=folder, env=environment, stdout=out, stderr=out
        ) as process,
    ):
        try:
            wait_until(lambda: b"gateway_starting" in log.read_bytes(), process)
            events = [json.loads(line) for line in log.read_text().splitlines()]
            (where,) = [event["url"] for event in events if event["event"] == "gateway_starting"]
            yield where, psutil.Process(process.pid)
        finally:
            process.terminate()


class Reader:
    """A raw reader of all of the model's streams."""

    def __init__(self, url: str) -> None:
        command = (sys.executable, "-m", "benchmarks.gateway.reader", url, Tag("bench").chan("*"))
        self._process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"listening\n"
        self.process = psutil.Process(self._process.pid)

    def end(self) -> dict[str, dict[int, int]]:
        """When it had each chunk: by job, then by offset."""
        times, _ = self._process.communicate()
        return {channel.rpartition(":")[2]: dict(chunks) for channel, chunks in json.loads(times).items()}


@contextmanager
def reader(url: str) -> Iterator[Reader]:
    """A raw reader, which has ended or is killed at the end of the block."""
    reading = Reader(url)
    try:
        yield reading
    finally:
        reading._process.kill()
        reading._process.communicate()


def settled_rss(process: psutil.Process) -> int:
    """Bytes of memory that it has, once they stay the same."""
    before, now = 0, process.memory_info().rss
    while now != before:
        time.sleep(0.5)
        before, now = now, process.memory_info().rss
    return int(now)
