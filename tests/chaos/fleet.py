"""What a storm rages over: one Redis, hosts with engine processes, and the network between them."""

import json
import os
import signal
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from redis import Redis
from redis.exceptions import RedisError

from headrace.local.embedded_redis import EmbeddedRedis
from headrace.schemas.keys import Tag
from headrace.schemas.redis.connection import connect
from headrace.workers.settings import WorkerSettings

from ..support.processes import Launched, launch
from .proxy import Proxy

ROOT = Path(__file__).parents[2]
LEASE_S = 1.5
TAG = Tag("demo")
ENGINES = (2, 2)
"""Engine processes of each host."""

STATUSES = frozenset({0, -signal.SIGKILL, -signal.SIGTERM})
"""How engine processes end that somebody kills all the time."""

_MEMORY = Path("/dev/shm")


@dataclass(slots=True, eq=False)
class Engine:
    """An engine process, as its host's log tells of it."""

    worker_id: str
    pid: int
    host: "Host"
    ready: bool = False
    frozen: bool = False

    @property
    def healthy(self) -> bool:
        """Whether it can run jobs."""
        return self.ready and not self.frozen and self.host.proxy.passes and not self.host.stopping

    def signal(self, signum: int) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.pid, signum)


@dataclass(slots=True, eq=False)
class Host:
    """A `headrace worker` that is started again and again.

    Attributes:
        url: Redis, as this host reaches it.
        engine: the module of its engine processes.
        settings: those that differ from a storm's.
        statuses: how an engine process may end here; any other status is its own failure.
        engines: its engine processes that live, by worker id.
        deaths: with which statuses engine processes ended.
        complaints: what its log may not say.
        stopping: it has been told to hand over.
    """

    name: str
    count: int
    proxy: Proxy
    url: str
    log: Path
    engine: str
    settings: Mapping[str, Any]
    statuses: frozenset[int]
    engines: dict[str, Engine] = field(default_factory=dict)
    deaths: list[int] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    stopping: bool = False
    _process: Launched | None = None
    _read: int = 0

    def start(self) -> None:
        settings = WorkerSettings(
            **{
                "redis_url": self.url,
                "model": "demo",
                "dtype": "float32",
                "device": "cpu",
                "threads": 1,
                "engines": self.count,
                "num_pages": 512,
                "max_batch_size": 12,
                "lease_s": LEASE_S,
                "heartbeat_s": 0.5,
                "drain_s": 6.0,
                "max_attempts": 100,
                "spare_engine": False,
                **self.settings,
            }
        )
        arguments = "tests.chaos.host", self.engine, settings.model_dump_json()
        self._process = launch("-m", *arguments, log=self.log, cwd=ROOT, OMP_NUM_THREADS="1")
        self.stopping = False

    def kill(self, *, with_engines: bool) -> None:
        """SIGKILL; the engine processes hand over by themselves unless they die too."""
        self.look()
        assert self._process is not None
        self._process.kill()
        if with_engines:
            for engine in self.engines.values():
                engine.signal(signal.SIGKILL)
        self._process.wait()
        self.look()
        self.engines.clear()

    def stop(self) -> None:
        """SIGTERM, and wait for the end of the hand-over."""
        assert self._process is not None
        self.stopping = True
        self._process.terminate()
        status = self._process.wait(timeout=30)
        self.look()
        self.engines.clear()
        if status != 0:
            self.complaints.append(f"host {self.name} ended with status {status} when told to stop")

    def look(self) -> None:
        """Read on in the log."""
        with self.log.open("rb") as log:
            log.seek(self._read)
            *lines, rest = log.read().split(b"\n")
            self._read = log.tell() - len(rest)
        for line in lines:
            self._note(line)
        assert self._process is not None
        if self._process.poll() is not None and not self.stopping and self.engines:
            self.engines.clear()

    def _note(self, line: bytes) -> None:
        try:
            event: dict[str, Any] = json.loads(line)
        except ValueError:
            self.complaints.append(f"host {self.name} wrote {line.decode(errors='replace')!r}")
            return
        name, engine = event.get("event"), event.get("engine", "")
        match name:
            case "engine_started":
                self.engines[engine] = Engine(engine, event["pid"], self)
            case "engine_ready" if engine in self.engines:
                self.engines[engine].ready = True
            case "engine_died" | "engine_ended":
                self.engines.pop(engine, None)
                self.deaths.append(event["status"])
                if event["status"] not in self.statuses:
                    self.complaints.append(f"{engine} ended with status {event['status']}")
        ours = not event.get("logger", "").startswith("celery")  # its reconnecting is an error to it
        if ours and event.get("level") in {"error", "critical"}:
            self.complaints.append(f"host {self.name}: {line.decode()}")


class Fleet:
    """All of it; a context manager, at whose end nothing is left.

    Args:
        folder: for the logs.
        engines: engine processes of each host.
        engine: their module.
        statuses: how they may end.
        direct: hosts reach Redis past their proxies, which would have this process pass on what is large.
        settings: their hosts', as far as they differ from a storm's.
    """

    def __init__(
        self,
        folder: Path,
        *,
        engines: Sequence[int] = ENGINES,
        engine: str = "tests.chaos.paced_engine",
        statuses: frozenset[int] = STATUSES,
        direct: bool = False,
        **settings: Any,
    ) -> None:
        self._count = sum(engines)
        # In memory, because Redis with `everysec` puts a write off, after it has answered, while a slow disk
        # syncs the last one: a SIGKILL could then lose what was acknowledged.
        self._data = tempfile.TemporaryDirectory(dir=_MEMORY if _MEMORY.is_dir() else None)
        self.redis = EmbeddedRedis(Path(self._data.name))
        self.redis.start()
        port = int(self.redis.url.rpartition(":")[2].partition("/")[0])
        self.readers = Proxy(port)
        self.hosts = []
        for name, count in zip("ab", engines, strict=True):
            proxy, log = Proxy(port), folder / f"host-{name}.log"
            url = self.redis.url if direct else proxy.url
            self.hosts.append(Host(name, count, proxy, url, log, engine, settings, statuses))
        self.control: Redis = connect(self.redis.url, socket_timeout=0.2, socket_connect_timeout=0.2)
        self._running: dict[str, tuple[str, int]] = {}

    def __enter__(self) -> Self:
        for host in self.hosts:
            host.start()
        return self

    def __exit__(self, *_: object) -> None:
        for host in self.hosts:
            host.kill(with_engines=True)
        for proxy in (self.readers, *(host.proxy for host in self.hosts)):
            proxy.close()
        self.control.close()
        self.redis.kill(signal.SIGCONT)
        self.redis.close()
        self._data.cleanup()

    @property
    def engines(self) -> Iterator[Engine]:
        """The engine processes that live now."""
        for host in self.hosts:
            host.look()
            yield from host.engines.values()

    @property
    def all_ready(self) -> bool:
        return [engine.healthy for engine in self.engines] == [True] * self._count

    def running_jobs(self, workers: set[str] | None) -> dict[str, int]:
        """Jobs that these workers have (None: any), and how many workers each has lost.

        While Redis does not answer, those that they had.
        """
        with suppress(RedisError):
            ids = [job_id.decode() for job_id in self.control.zrange(TAG.leases, 0, -1)]
            pipe = self.control.pipeline(transaction=False)
            for job_id in ids:
                pipe.hmget(TAG.job(job_id), "worker", "history")
            self._running = {
                job_id: ((worker or b"").decode(), len(json.loads(history or b"[]")))
                for job_id, (worker, history) in zip(ids, pipe.execute(), strict=True)
            }
        return {
            job_id: deaths
            for job_id, (worker, deaths) in self._running.items()
            if workers is None or worker in workers
        }
