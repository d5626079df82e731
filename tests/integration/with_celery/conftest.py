"""A whole installation: Redis, a worker with the built-in model, callbacks, a team's worker, Flower."""

import gc
import importlib.util
import json
import os
import signal
import subprocess
import sys
import threading
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import psutil
import pytest
from celery.backends.redis import RedisBackend
from tests.support.forkserver import HELPER, Forked, Forkserver
from tests.support.waiting import wait_until

from headrace import Client
from headrace.schemas.keys import Tag
from headrace.schemas.redis.connection import connect

HERE = Path(__file__).parent
TEAM = "tests_team_app"


@contextmanager
def hearing(app, kinds: tuple[str, ...], seen: list[dict]) -> Iterator[None]:
    """Collect the app's events of these kinds, from one on that is sent to see that they are heard.

    Celery calls a receiver ready when it is about to subscribe.
    """
    heard = threading.Event()
    handlers = dict.fromkeys(kinds, seen.append) | {"test-heard": lambda event: heard.set()}
    with app.connection_for_read() as connection, app.events.default_dispatcher() as dispatcher:
        receiver = app.events.Receiver(connection, handlers=handlers)
        thread = threading.Thread(target=lambda: receiver.capture(limit=None, timeout=None, wakeup=False))
        thread.start()
        try:
            wait_until(lambda: dispatcher.send("test-heard") or heard.wait(0.1))
            yield
        finally:
            receiver.should_stop = True
            thread.join(20)


@dataclass
class Installation:
    """The running processes, and ways to look at them.

    Attributes:
        team: the team's module, imported here: its app and tasks.
        processes: by name.
        forkserver: where the worker comes from.
    """

    redis_url: str
    forkserver: Forkserver
    folder: Path
    environment: dict[str, str]
    client: Client
    flower_port: int
    team: ModuleType
    processes: dict[str, psutil.Popen | Forked] = field(default_factory=dict)

    @property
    def to_relay(self) -> int:
        """Entries in the outbox."""
        with connect(self.redis_url) as redis:
            return int(redis.xlen(Tag("demo").outbox))

    @property
    def now_ms(self) -> int:
        """The time by Redis, which dates what becomes of jobs."""
        with connect(self.redis_url) as redis:
            seconds, micros = redis.time()
            return int(seconds) * 1000 + int(micros) // 1000

    def start(self, name: str, *arguments: str) -> None:
        """Start `python -m <arguments>`; its log is `<name>.log`."""
        launch = self.forkserver.start if name == "worker" else psutil.Popen
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = launch(
                [sys.executable, "-m", *arguments],
                stdout=log,
                stderr=log,
                cwd=HERE,
                env=os.environ | self.environment,
            )

    def start_worker(self) -> None:
        flags = [
            "--model",
            "demo",
            "--device",
            "cpu",
            "--dtype",
            "float32",
            "--threads",
            "1",
            "--lease-s",
            "2",
        ]
        self.start("worker", "headrace.cli", "worker", *flags)

    def start_callbacks(self) -> None:
        self.start("callbacks", "headrace.cli", "callbacks", "--app", "team_app:app", "--metrics-port", "0")

    def kill(self, name: str) -> None:
        """kill -9."""
        self.processes[name].kill()
        self.processes[name].wait()

    def kill_engine(self) -> None:
        """kill -9 of the engine process; its host starts another."""
        children = psutil.Process(self.processes["worker"].pid).children()
        (engine,) = (child for child in children if child.name() != HELPER)
        engine.send_signal(signal.SIGKILL)

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text()

    def flower(self, path: str, method: str = "GET", **query: object) -> Any:
        """Flower's HTTP API."""
        url = f"http://127.0.0.1:{self.flower_port}/api/{path}"
        data = urllib.parse.urlencode(query).encode() if query else (b"" if method == "POST" else None)
        with urllib.request.urlopen(urllib.request.Request(url, data, method=method), timeout=20) as reply:
            return json.loads(reply.read())

    @property
    def host(self) -> str:
        """The worker's name in Celery."""
        return next(name for name in self.flower("workers", refresh=1) if name.startswith("headrace@"))

    def stop(self) -> None:
        for process in self.processes.values():
            if process.poll() is None:
                process.terminate()
        for process in self.processes.values():
            try:
                process.wait(timeout=30)
            except (psutil.TimeoutExpired, subprocess.TimeoutExpired):
                process.kill()
                process.wait()


def _answers(installation: Installation) -> bool:
    try:
        found = installation.flower("workers?refresh=1")
    except OSError:
        return False
    return {name.partition("@")[0] for name in found} == {"headrace", "callbacks", "team"}


@pytest.fixture(scope="package")
def installation(tmp_path_factory: pytest.TempPathFactory, forkserver: Forkserver) -> Iterator[Installation]:
    """Everything started and ready; shared by these tests."""
    with installed(tmp_path_factory.mktemp("installation"), forkserver) as found:
        yield found


@contextmanager
def installed(folder: Path, forkserver: Forkserver, broker_url: str | None = None) -> Iterator[Installation]:
    """An installation whose team has this broker, or the Redis that keeps its results."""
    from headrace.local.embedded_redis import EmbeddedRedis
    from headrace.local.embedded_redis.server import free_port

    folder.mkdir(exist_ok=True)
    with EmbeddedRedis() as server, pytest.MonkeyPatch.context() as patch:
        team_url = server.url.removesuffix("/0") + "/1"
        environment = {
            "HEADRACE_REDIS_URL": server.url,
            "HEADRACE_CELERY_BROKER_URL": broker_url or team_url,
            "HEADRACE_CELERY_RESULT_BACKEND": team_url,
            "HEADRACE_RELAY_S": "2",
            "TEAM_BROKER_URL": broker_url or team_url,
            "TEAM_BACKEND_URL": team_url,
            "FLOWER_UNAUTHENTICATED_API": "true",
            "OMP_NUM_THREADS": "1",
        }
        for name, value in environment.items():
            patch.setenv(name, value)
        clients, create = [], RedisBackend._create_client  # one a thread, which Celery never closes
        patch.setattr(
            RedisBackend,
            "_create_client",
            lambda self, **options: clients.append(create(self, **options)) or clients[-1],
        )
        team = _import_team()
        before, team.app = team.app, team.make_app()  # a shared task goes by the app of now
        team.app.set_current()
        found = Installation(
            server.url,
            forkserver,
            folder,
            environment,
            Client(server.url),
            free_port(),
            team,
        )
        try:
            found.start_worker()
            found.start_callbacks()
            # Three at once, so that what waits for nothing never waits behind it.
            celery = ["celery", "-A", "team_app"]
            found.start("team", *celery, "worker", "-P", "threads", "-c", "3", "-n", "team@%h", "-l", "INFO")
            flags = [f"--port={found.flower_port}", "--address=127.0.0.1"]
            found.start("flower", *celery, "flower", *flags)
            wait_until(found.client.workers)
            wait_until(lambda: _answers(found))
            yield found
        finally:
            found.stop()
            found.client.close()
            team.generate.client().close()
            team.generate._connected = None
            gc.collect()  # results unsubscribe when they are collected: while there is a Redis
            for client in clients:
                client.close()
            team.app.close()
            team.app = before
            before.set_current()


def _import_team() -> ModuleType:
    """The team's module, imported once in a process, since its tasks are shared ones."""
    if TEAM not in sys.modules:
        spec = importlib.util.spec_from_file_location(TEAM, HERE / "team_app.py")
        assert spec is not None
        assert spec.loader is not None
        sys.modules[TEAM] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[TEAM])
    return sys.modules[TEAM]
