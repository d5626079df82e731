"""Real workers on a real Redis with the built-in model, and what their streams must be."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from headrace import Client, JobHandle
from headrace.schemas.events import Chunk, End, parse_event
from headrace.schemas.keys import is_permanent, tag_of

WAIT_S = 90.0


def wait_until(what: Callable[[], Any], timeout_s: float = WAIT_S) -> Any:
    """The first true value of `what()`."""
    pause, give_up_at = threading.Event(), time.monotonic() + timeout_s
    while not (value := what()):
        assert time.monotonic() < give_up_at, f"not within {timeout_s} s"
        pause.wait(0.05)
    return value


@dataclass
class WorkerProcess:
    """A `headrace worker` process, its log and its engine processes."""

    process: subprocess.Popen[bytes]
    log: Path
    client: Client

    @property
    def lines(self) -> list[dict[str, Any]]:
        whole = [line for line in self.log.read_text().splitlines(keepends=True) if line.endswith("\n")]
        return [json.loads(line) for line in whole]

    def events(self, name: str) -> list[dict[str, Any]]:
        """The log lines of one event."""
        return [line for line in self.lines if line["event"] == name]

    def wait_ready(self, engines: int) -> None:
        """Wait until so many engine processes have become ready in all."""
        wait_until(lambda: len(self.events("engine_ready")) >= engines or self.process.poll() is not None)
        assert self.process.poll() is None, self.log.read_text()[-2000:]

    def engine_of(self, worker_id: str) -> int | None:
        """The process id of the engine process of that name, while it lives."""
        return next((w.pid for w in self.client.workers() if w.id == worker_id and _alive(w.pid)), None)

    def kill_engine(self, worker_id: str) -> bool:
        """kill -9; False when it is gone already."""
        pid = self.engine_of(worker_id)
        if pid is None:
            return False
        os.kill(pid, signal.SIGKILL)
        return True

    def stop(self) -> int:
        """SIGTERM, and the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=60)


def _alive(pid: int) -> bool:
    return pid > 0 and Path(f"/proc/{pid}").exists()


@pytest.fixture
def start_worker(tmp_path: Path) -> Iterator[Callable[..., WorkerProcess]]:
    """Start `headrace worker` on a Redis; float32, so that a resumed job can be compared token for token."""
    started: list[WorkerProcess] = []

    def start(
        url: str, *, engines: int = 1, options: Mapping[str, object] | None = None, ready: bool = True
    ) -> WorkerProcess:
        defaults = {"model": "demo", "dtype": "float32", "device": "cpu", "threads": 1, "lease_s": 2}
        flags = [
            part
            for name, value in {**defaults, "engines": engines, **(options or {})}.items()
            for part in (f"--{name.replace('_', '-')}", str(value))
        ]
        log = tmp_path / f"worker-{len(started)}.log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                [sys.executable, "-m", "headrace.cli", "worker", *flags, "--redis", url],
                stdout=out,
                stderr=out,
                env=os.environ | {"OMP_NUM_THREADS": "1"},
            )
        worker = WorkerProcess(process, log, Client(url))
        started.append(worker)
        if ready:
            worker.wait_ready(engines)
        return worker

    yield start
    for worker in started:
        if worker.process.poll() is None:
            worker.process.terminate()
    for worker in started:
        try:
            worker.process.wait(timeout=40)
        except subprocess.TimeoutExpired:
            worker.process.kill()
            worker.process.wait()
        worker.client.close()


def log_of(redis: Redis, job: JobHandle) -> tuple[list[Chunk], list[End]]:
    """The chunks and end markers of a job's token log."""
    entries = redis.xrange(tag_of(job.id).out(job.id))
    events = [parse_event(fields[b"event"]) for _, fields in entries]
    chunks = [event for event in events if isinstance(event, Chunk)]
    return chunks, [event for event in events if isinstance(event, End)]


def assert_whole(redis: Redis, job: JobHandle) -> list[int]:
    """The log has every token once and in order, one end, and the result says the same; its tokens."""
    chunks, ends = log_of(redis, job)
    seen: list[int] = []
    for chunk in chunks:
        assert chunk.start == len(seen), f"{job.id}: a chunk begins at {chunk.start} after {len(seen)}"
        seen += chunk.token_ids
    result = job.result(timeout_s=1)
    assert len(ends) == 1
    assert ends[0].offset == len(seen)
    assert list(result.token_ids) == seen
    assert result.text == "".join(chunk.text for chunk in chunks) + ends[0].text
    return seen


def leaked_keys(redis: Redis) -> list[str]:
    """Keys that would stay for ever though they may not."""
    return [
        key.decode() for key in redis.scan_iter() if redis.ttl(key) == -1 and not is_permanent(key.decode())
    ]


@pytest.fixture
def expected_tokens() -> Callable[..., list[int]]:
    """What a job's tokens are when nothing interrupts it: the engine alone, in this process."""
    import torch

    from headrace.engine import Engine, EngineConfig, ModelInfo
    from headrace.schemas.job import Job
    from headrace.schemas.keys import Tag
    from headrace.schemas.scripts import ClaimedJob
    from headrace.workers.intake import Intake
    from headrace.workers.models import resolve_model
    from headrace.workers.text import Tokenizer

    torch.set_num_threads(1)
    model = resolve_model("demo")
    engine = Engine(EngineConfig(model=model, dtype="float32", threads=1))
    info: ModelInfo = engine.model_info
    intake = Intake(Tokenizer(model), info)

    def run(job_id: str, **fields: object) -> list[int]:
        spec = Job.make(**fields).to_wire()
        admission = intake.admit(Tag("demo"), ClaimedJob(job_id, "1.x", spec, 0, 0, None, 0, []))
        assert admission.request is not None
        engine.submit(admission.request)
        tokens: list[int] = []
        while engine.has_work:
            for progress in engine.step():
                tokens += progress.token_ids
        return tokens

    return run
