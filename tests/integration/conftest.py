"""Real workers on a real Redis with the built-in model, and what their streams must be."""

import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from headrace import Client, JobHandle
from headrace.schemas.events import Chunk, End, parse_event
from headrace.schemas.keys import is_permanent, tag_of

from ..support.forkserver import Forkserver
from ..support.lora import adapter_in
from ..support.processes import ANY_HOST, PACE, USUAL_STEP_S, Launched, end, flags, launch
from ..support.waiting import wait_until

BUS = 10_000
"""How far above its port a node of a Cluster listens for the others."""
EPHEMERAL = 32_768
"""From here on Linux gives ports to whoever connects somewhere."""


@dataclass
class WorkerProcess:
    """A `headrace worker` process, its log and its engine processes."""

    process: Launched
    log: Path
    client: Client

    @property
    def lines(self) -> list[dict[str, Any]]:
        whole = [line for line in self.log.read_text().splitlines(keepends=True) if line.endswith("\n")]
        return [json.loads(line) for line in whole if line.startswith("{")]

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


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model by the built-in one's name, of which every token is another."""
    from ..support.models import small_model

    return small_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def start_worker(
    tmp_path: Path, forkserver: Forkserver, model: Path
) -> Iterator[Callable[..., WorkerProcess]]:
    """Start `headrace worker` on a Redis; float32, so that a resumed job can be compared token for token.

    It is forked from the fork server, serves `model`, and takes `step_s` for a step: a test that needs a job
    to run still when it acts gives it seconds.
    """
    started: list[WorkerProcess] = []

    def start(
        url: str,
        *,
        engines: int = 1,
        options: Mapping[str, object] | None = None,
        ready: bool = True,
        engine: str | None = None,
        step_s: float = USUAL_STEP_S,
        environment: Mapping[str, str] | None = None,
    ) -> WorkerProcess:
        engine_path = str(Path(__file__).with_name(engine)) if engine else ""
        run = [ANY_HOST, engine_path] if engine else ["-m", "headrace.cli", "worker"]
        defaults = {"model": model, "dtype": "float32", "device": "cpu", "threads": 1, "lease_s": 2}
        log = tmp_path / f"worker-{len(started)}.log"
        process = launch(
            *run,
            *flags(**{**defaults, "engines": engines, **(options or {}), "redis": url}),
            log=log,
            forkserver=forkserver,
            **{"OMP_NUM_THREADS": "1", PACE: str(step_s), **(environment or {})},
        )
        worker = WorkerProcess(process, log, Client(url))
        started.append(worker)
        if ready:
            worker.wait_ready(engines)
        return worker

    yield start
    end(*(worker.process for worker in started))
    for worker in started:
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


class Uninterrupted:
    """What jobs' tokens are when nothing interrupts them: the engine alone, in this process.

    Jobs of the same fields have the same tokens, for they name their seeds; each is computed once, and a
    shorter one is the beginning of a longer one.
    """

    def __init__(self, model: str, adapter: Path | None = None) -> None:
        import torch

        from headrace.engine import Engine, EngineConfig
        from headrace.workers.engine_process.intake.reader import Reader
        from headrace.workers.engine_process.text import Tokenizer

        torch.set_num_threads(1)
        usual = {"dtype": "float32", "threads": 1, "num_pages": 1025, "prefix_cache": False}
        self._engine = Engine(EngineConfig(model, **usual, max_adapters=int(adapter is not None)))
        self._adapter = None if adapter is None else adapter_in(adapter)
        self._reader = Reader(Tokenizer(model))
        self._known: dict[str, list[int]] = {}

    def __call__(self, **fields: object) -> list[int]:
        """The tokens of one job."""
        return self.of_each([fields])[0]

    def of_each(self, jobs: Sequence[Mapping[str, object]]) -> list[list[int]]:
        """The tokens of several jobs, computed together."""
        asked = [(_what_decides_tokens(fields), _sure_length(fields)) for fields in jobs]
        running: dict[str, list[int]] = {}
        for (name, length), fields in sorted(
            zip(asked, jobs, strict=True), key=lambda job: -(job[0][1] or 0)
        ):
            if name not in running and (name not in self._known or len(self._known[name]) < (length or 0)):
                running[name] = []
                self._submit(name, fields)
        while self._engine.has_work:
            for progress in self._engine.step():
                running[progress.id] += progress.token_ids
        self._known |= running
        return [self._known[name][:length] for name, length in asked]

    def _submit(self, name: str, fields: Mapping[str, object]) -> None:
        from headrace.engine import Request
        from headrace.schemas.wire import WireJob
        from headrace.workers.engine_process.intake.sampling import sampling_params
        from headrace.workers.engine_process.prepared import Asked

        assert fields.get("temperature") == 0.0 or "seed" in fields
        job = WireJob.make(**fields)
        context_tokens = self._engine.model_info.context_tokens
        prepared = self._reader.read(Asked(name, job.to_wire().encode(), context_tokens))
        assert prepared.error is None
        params = sampling_params(job, name)
        self._engine.submit(Request(name, prepared.prompt_ids, params, adapter=self._adapter))


def _sure_length(fields: Mapping[str, Any]) -> int | None:
    """How many tokens a job has whatever they are; None if some tokens end it sooner."""
    ends_early = not fields.get("ignore_eos") or fields.keys() & {"stop", "stop_token_ids"}
    return None if ends_early else fields.get("max_tokens")


def _what_decides_tokens(fields: Mapping[str, Any]) -> str:
    """A job's fields, but for a length that only says how many of its tokens there are."""
    left_out = set() if _sure_length(fields) is None else {"max_tokens"}
    return json.dumps({name: value for name, value in fields.items() if name not in left_out}, sort_keys=True)


@pytest.fixture(scope="session")
def expected_tokens(model: Path) -> Uninterrupted:
    """What jobs' tokens are when nothing interrupts them."""
    return Uninterrupted(str(model))


# Redis as people run it -------------------------------------------------------------------------------------


class RedisServers:
    """Bare redis-server processes on free ports of loopback, without persistence."""

    def __init__(self, folder: Path) -> None:
        from headrace.local.embedded_redis.binary import find_binary

        self._binary, self._folder = str(find_binary()), folder
        self.processes: dict[int, subprocess.Popen[bytes]] = {}

    def start(self, *options: str, config: str | None = None) -> int:
        """Start one, as a Sentinel when given a configuration; its port."""
        from headrace.local.embedded_redis.server import free_port

        port = free_port()
        while "--cluster-enabled" in options and port + BUS >= EPHEMERAL:
            port = free_port()
        folder = self._folder / str(port)
        folder.mkdir(parents=True)
        command = [self._binary]
        if config is not None:
            (folder / "sentinel.conf").write_text(config)
            command += [str(folder / "sentinel.conf"), "--sentinel"]
        command += ["--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), *options]
        if config is None:
            command += ["--save", "", "--appendonly", "no"]
        with (folder / "log").open("wb") as log:
            process = self.processes[port] = subprocess.Popen(command, stdout=log, stderr=log)
        wait_until(lambda: self._answers(port) or process.poll() is not None, 20)
        assert process.poll() is None, (folder / "log").read_text()
        return port

    def _answers(self, port: int) -> bool:
        from redis.exceptions import ConnectionError as RedisConnectionError
        from redis.exceptions import RedisError

        try:
            return bool(self.ask(port, "PING"))
        except RedisConnectionError:
            return False
        except RedisError:  # it wants a password
            return True

    def ask(self, port: int, *command: object) -> Any:
        """One command's reply from one server."""
        with Redis(host="127.0.0.1", port=port, protocol=2) as redis:
            return redis.execute_command(*command)

    def kill(self, port: int) -> None:
        """kill -9."""
        process = self.processes.pop(port)
        process.kill()
        process.wait()

    def close(self) -> None:
        for port in list(self.processes):
            self.kill(port)


@pytest.fixture
def redis_servers(tmp_path: Path) -> Iterator[RedisServers]:
    """Start redis-server processes; they end with the test."""
    servers = RedisServers(tmp_path / "redis")
    yield servers
    servers.close()


@dataclass
class SentinelSetup:
    """A primary, its replicas, and three Sentinels that watch them."""

    servers: RedisServers
    primary: int
    replicas: list[int]
    sentinels: list[int]

    @property
    def url(self) -> str:
        """For clients and workers."""
        return f"redis+sentinel://{','.join(f'127.0.0.1:{port}' for port in self.sentinels)}/main"

    def now_primary(self) -> int:
        """The port that the first Sentinel says."""
        found = self.servers.ask(self.sentinels[0], "SENTINEL", "get-master-addr-by-name", "main")
        return int(found[1])


@pytest.fixture
def sentinel(redis_servers: RedisServers) -> SentinelSetup:
    """A primary with one replica under three Sentinels that give up on it after a second."""
    primary = redis_servers.start()
    replica = redis_servers.start("--replicaof", "127.0.0.1", str(primary))
    config = (
        f"sentinel monitor main 127.0.0.1 {primary} 2\n"
        "sentinel down-after-milliseconds main 1000\n"
        "sentinel failover-timeout main 5000\n"
    )
    sentinels = [redis_servers.start(config=config) for _ in range(3)]

    def all_know_all() -> bool:
        for port in sentinels:
            flat = [part.decode() for part in redis_servers.ask(port, "SENTINEL", "master", "main")]
            state = dict(zip(flat[::2], flat[1::2], strict=True))
            if int(state["num-slaves"]) < 1 or int(state["num-other-sentinels"]) < 2:
                return False
        return bool(redis_servers.ask(replica, "INFO")["master_link_status"] == "up")

    wait_until(all_know_all, 40)
    return SentinelSetup(redis_servers, primary, [replica], sentinels)


@pytest.fixture
def cluster_url(redis_servers: RedisServers) -> str:
    """A Redis Cluster of three nodes."""
    ports = [redis_servers.start("--cluster-enabled", "yes") for _ in range(3)]
    for number, port in enumerate(ports):
        first, last = 16384 * number // 3, 16384 * (number + 1) // 3
        redis_servers.ask(port, "CLUSTER", "ADDSLOTS", *range(first, last))
        redis_servers.ask(port, "CLUSTER", "MEET", "127.0.0.1", ports[0])

    def whole() -> bool:
        infos = [redis_servers.ask(port, "CLUSTER INFO") for port in ports]
        return all(i["cluster_state"] == "ok" and i["cluster_known_nodes"] == "3" for i in infos)

    wait_until(whole, 30)
    return "redis+cluster://" + ",".join(f"127.0.0.1:{port}" for port in ports)
