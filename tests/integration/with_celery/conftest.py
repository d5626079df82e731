"""A whole installation: Redis, a worker with the built-in model, callbacks, a team's worker, Flower."""

import gc
import importlib.util
import json
import signal
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
from tests.support.forkserver import HELPER, Forkserver
from tests.support.processes import PACE, Launched, end, flags, launch
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
    processes: dict[str, Launched] = field(default_factory=dict)

    @property
    def to_relay(self) -> int:
        """Entries in the outbox."""
        with connect(self.redis_url) as redis:
            return int(redis.xlen(Tag("demo").outbox))

    def start(self, name: str, *arguments: str) -> None:
        """Start `python -m <arguments>`; its log is `<name>.log`."""
        self.processes[name] = launch(
            "-m",
            *arguments,
            log=self.folder / f"{name}.log",
            forkserver=self.forkserver if name == "worker" else None,
            cwd=HERE,
            **self.environment,
        )

    def start_worker(self) -> None:
        served = flags(model="demo", device="cpu", dtype="float32", threads=1, lease_s=2)
        self.start("worker", "headrace.cli", "worker", *served)

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
        """The worker's name in Celery; Flower knows those of workers that were killed too."""
        ours = f"-{self.processes['worker'].pid}"

        def found() -> str | None:
            names = self.flower("workers", refresh=1)
            return next(
                (name for name in names if name.startswith("headrace@") and name.endswith(ours)), None
            )

        return wait_until(found)

    def stop(self) -> None:
        end(*self.processes.values())


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
            PACE: "0.015",
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
