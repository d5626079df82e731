"""What one engine process can publish at most: tokens a second with an engine that costs nothing.

    python -m benchmarks.ceiling [--batches 64 256] [--rounds 3] [--against FOLDER] [--json FILE]

Redis, host and engine process are real, and so are the jobs, which are streamed; only the engine's steps are
not. Counted is what Redis has confirmed. With `--against`, the engine process of another checkout of headrace
runs in turn with this one's, on the same machine in the same run.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from redis import Redis

from headrace import Client
from headrace.local.embedded_redis import EmbeddedRedis
from headrace.producers.client import JobHandle
from headrace.schemas.keys import Tag
from headrace.schemas.redis.connection import connect

from .machine import machine, save
from .tables import ceiling_table

ROOT, COSTLESS = Path(__file__).parents[1], "benchmarks.costless"
START_S = 60.0
SETTLE_S = 0.5
"""From the last job's first token until what is measured begins."""

JOB = {"model": "bench", "prompt_token_ids": [1] * 16, "max_tokens": 900_000, "ignore_eos": True}


def wait_until(what: Callable[[], Any], worker: "subprocess.Popen[bytes]") -> Any:
    """The first true value of `what()`, while the worker lives."""
    give_up_at = time.monotonic() + START_S
    while not (value := what()):
        if worker.poll() is not None or time.monotonic() > give_up_at:
            raise SystemExit("the worker has ended, or does not run what it should; its log stands above")
        time.sleep(0.02)
    return value


@contextmanager
def costless_worker(url: str, checkout: Path, batch: int, log: Path) -> "Iterator[subprocess.Popen[bytes]]":
    """A worker of that checkout with an engine that costs nothing."""
    settings = {"model": "demo", "served_name": "bench", "redis_url": url, "max_batch_size": batch}
    command = [sys.executable, "-m", COSTLESS, "worker", json.dumps(settings)]
    environment = os.environ | {"PYTHONPATH": f"{checkout / 'src'}{os.pathsep}{ROOT}"}
    with log.open("wb") as out, subprocess.Popen(command, env=environment, stderr=out, stdout=out) as worker:
        try:
            yield worker
        except SystemExit:
            print(log.read_text(), file=sys.stderr)
            raise
        finally:
            worker.terminate()


def published(redis: Redis, jobs: list[JobHandle]) -> list[int]:
    """Tokens of each job that Redis has."""
    pipe = redis.pipeline(transaction=False)
    for job in jobs:
        pipe.hget(Tag("bench").job(job.id), "offset")
    return [int(offset or 0) for offset in pipe.execute()]


def spent_s(process: psutil.Process) -> float:
    """Seconds of CPU that it has taken."""
    times = process.cpu_times()
    return float(times.user + times.system)


def measure(checkout: Path, batch: int, seconds: float) -> dict[str, float]:
    """Tokens that are published in about so many seconds, and the CPU time of whom it takes."""
    with (
        tempfile.TemporaryDirectory() as folder,
        EmbeddedRedis() as server,
        connect(server.url) as redis,
        Client(server.url) as client,
        costless_worker(server.url, checkout, batch, Path(folder) / "log") as worker,
    ):
        wait_until(client.workers, worker)
        jobs = client.enqueue_many([JOB] * batch)
        wait_until(lambda: all(published(redis, jobs)), worker)
        time.sleep(SETTLE_S)
        (engine,) = (child for child in psutil.Process(worker.pid).children() if COSTLESS in child.cmdline())
        processes = {"process": engine, "redis": psutil.Process(server.pid)}
        before = {name: spent_s(process) for name, process in processes.items()}
        tokens, started = sum(published(redis, jobs)), time.perf_counter()
        time.sleep(seconds)
        tokens, took = sum(published(redis, jobs)) - tokens, time.perf_counter() - started
        after = {name: spent_s(process) - before[name] for name, process in processes.items()}
    return {"tokens": tokens, "seconds": took, **after}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batches", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--seconds", type=float, default=3.0, help="measured, in each round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--against", type=Path, help="another checkout of headrace")
    parser.add_argument("--name", help="what the other is called in the table")
    parser.add_argument("--json", type=Path, help="a file, or a folder to name it in")
    options = parser.parse_args()
    checkouts = {"headrace": ROOT}
    if options.against:
        checkouts = {options.name or options.against.name: options.against.absolute()} | checkouts
    rounds: dict[str, dict[str, list[dict[str, float]]]] = {}
    for _ in range(options.rounds):
        for batch in options.batches:
            for name, checkout in checkouts.items():
                found = measure(checkout, batch, options.seconds)
                rounds.setdefault(str(batch), {}).setdefault(name, []).append(found)
    facts: dict[str, object] = {
        "benchmark": "ceiling",
        "machine": machine(),
        "rounds": options.rounds,
        "batches": rounds,
    }
    if options.json:
        save(facts, options.json, "ceiling")
    print(ceiling_table(facts))


if __name__ == "__main__":
    main()
