"""Whole hosts: real processes, a real Celery worker, a real Redis; only the engine process is a stand-in."""

import json
import platform
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from headrace.workers.host.app import make_app
from headrace.workers.settings import WorkerSettings

from ...support.waiting import WAIT_S, wait_until

if TYPE_CHECKING:
    from headrace.local.embedded_redis import EmbeddedRedis

StartHost = Callable[..., Any]
Eventually = Callable[..., Any]


@dataclass
class Celery:
    """What Flower and `celery inspect` use."""

    control: Any
    connection: Any

    def ask(self, host: Any, question: str) -> Any:
        """The host's answer to `inspect <question>`, None when it gave none in time."""
        name = f"headrace@{platform.node()}-{host.process.pid}"
        inspect = self.control.inspect(destination=[name], timeout=1.0, limit=1, connection=self.connection)
        answers = getattr(inspect, question)()
        return answers[name] if answers else None


@contextmanager
def celery_on(redis_url: str) -> Iterator[Celery]:
    app = make_app(WorkerSettings(redis_url=redis_url))
    with app.connection_for_write() as connection:
        yield Celery(app.control, connection)


def test_the_host_is_a_celery_worker_that_shows_its_engine_processes(
    redis_url: str, start_host: StartHost, eventually: Eventually
) -> None:
    host = start_host(redis_url, engines=2)
    host.wait_for("engine_ready", 2)
    with celery_on(redis_url) as celery:
        assert wait_until(lambda: celery.ask(host, "ping")) == {"ok": "pong"}
        stats = eventually(
            lambda: (found := celery.ask(host, "stats")) and "engine_1_running" in found and found
        )
        assert stats["engines"] == 2
        assert stats["engine_0_state"] == "ready"
        assert {stats["engine_0_pid"], stats["engine_1_pid"]} == {engine.pid for engine in host.engines}
        assert celery.ask(host, "active_queues") == []
    assert host.end() == 0
    assert [line["status"] for line in host.events("engine_ended")] == [0, 0]
    assert not any(engine.is_running() for engine in host.engines_seen)


def test_the_host_stays_visible_while_jobs_are_handed_over(redis_url: str, start_host: StartHost) -> None:
    host = start_host(redis_url, "slow")
    host.wait_for("engine_ready")
    host.process.send_signal(signal.SIGTERM)
    host.wait_for("stopping")
    with celery_on(redis_url) as celery:
        assert wait_until(lambda: celery.ask(host, "ping")) == {"ok": "pong"}
        assert wait_until(lambda: celery.ask(host, "stats"))["draining"] == 1
    assert not host.events("engine_drained")
    assert host.process.wait(20) == 0
    assert host.events("engine_drained")[0]["released"] == 2


def test_a_shutdown_asked_for_through_celery_hands_over_too(redis_url: str, start_host: StartHost) -> None:
    host = start_host(redis_url)
    host.wait_for("engine_ready")
    with celery_on(redis_url) as celery:
        wait_until(lambda: celery.ask(host, "ping"))  # what is sent before it listens is lost
        celery.control.shutdown(connection=celery.connection)
    assert host.process.wait(20) == 0
    assert host.events("engine_drained")


@pytest.mark.parametrize("signals", [(signal.SIGQUIT,), (signal.SIGINT, signal.SIGINT)])
def test_a_cold_shutdown_waits_for_nothing(
    redis_url: str, start_host: StartHost, signals: tuple[int, ...]
) -> None:
    host = start_host(redis_url, "deaf", drain_s=600)
    host.wait_for("engine_ready")
    for number, signum in enumerate(signals, 1):
        host.process.send_signal(signum)
        host.wait_for("stopping", number)
    host.process.wait(20)
    assert host.events("engine_killed")


def test_a_model_that_can_not_be_served_ends_the_host_with_one_clear_line(
    redis_url: str, start_host: StartHost
) -> None:
    host = start_host(redis_url, "fatal", engines=2)
    assert host.process.wait(20) == 1
    assert [line["reason"] for line in host.events("engine_cannot_run")] == ["no such model: nowhere/none"]
    assert len(host.events("engine_started")) == 2


@pytest.mark.parametrize("behaviour", ["serve", "deaf"])
def test_engine_processes_end_with_a_killed_host(
    redis_url: str, start_host: StartHost, behaviour: str
) -> None:
    host = start_host(redis_url, behaviour, drain_s=0.5)
    host.wait_for("engine_ready")
    engines = host.engines
    assert host.end(signal.SIGKILL) == -signal.SIGKILL
    gone, left = psutil.wait_procs(engines, timeout=10)
    assert (len(gone), left) == (1, [])


def test_a_spare_ends_with_a_killed_host(redis_url: str, start_host: StartHost) -> None:
    host = start_host(redis_url, spare_engine=True)
    host.wait_for("spare_ready")
    engine_and_spare = host.engines
    assert host.end(signal.SIGKILL) == -signal.SIGKILL
    gone, left = psutil.wait_procs(engine_and_spare, timeout=WAIT_S)
    assert (len(gone), left) == (2, [])


def test_redis_going_away_stops_neither_the_host_nor_its_engine_processes(
    own_redis: "EmbeddedRedis", start_host: StartHost, eventually: Eventually
) -> None:
    host = start_host(own_redis.url)
    host.wait_for("engine_ready")
    engines = host.engines
    own_redis.stop()
    lost = re.compile("Cannot connect|Connection to broker lost")
    eventually(lambda: sum(bool(lost.search(line["event"])) for line in host.lines) >= 3)
    own_redis.start()
    with celery_on(own_redis.url) as celery:
        eventually(lambda: celery.ask(host, "ping"))
    assert host.engines == engines
    assert not host.events("engine_died")
    assert host.end() == 0


def test_a_host_without_redis_waits_and_can_be_stopped(
    own_redis: "EmbeddedRedis", start_host: StartHost, eventually: Eventually
) -> None:
    own_redis.stop()
    host = start_host(own_redis.url)
    host.wait_for("engine_ready")
    eventually(lambda: any("Cannot connect" in line["event"] for line in host.lines))
    assert host.end() == 0
    assert host.events("engine_drained")


@pytest.mark.parametrize("behaviour", ["serve", "deaf"])
def test_a_host_whose_redis_hangs_ends_when_its_engine_processes_have(
    own_redis: "EmbeddedRedis", start_host: StartHost, behaviour: str
) -> None:
    host = start_host(own_redis.url, behaviour, drain_s=0.5, metrics_port=0)
    host.wait_for("engine_ready")
    engines = host.engines
    own_redis.kill(signal.SIGSTOP)
    try:
        assert host.end(timeout_s=15) == 0
    finally:
        own_redis.kill(signal.SIGCONT)
    assert not any(engine.is_running() for engine in engines)


def test_metrics_are_served_and_go_on_across_engine_processes(
    redis_url: str, start_host: StartHost, eventually: Eventually
) -> None:
    host = start_host(redis_url, "count", metrics_port=0)
    port = host.wait_for("metrics_served")["port"]
    host.wait_for("engine_ready")

    def samples() -> dict[str, float]:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as page:
            lines = [line for line in page.read().decode().splitlines() if line[0] != "#"]
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}

    def sample(name: str) -> float | None:
        return samples().get(f'headrace_{name}{{model="demo"}}')

    assert sample("output_tokens_total") == 5
    assert sample("jobs_running") == 1
    host.engines[0].kill()
    eventually(lambda: sample("output_tokens_total") == 10)
    assert sample("jobs_running") == 1
    assert sample("step_seconds_count") == 2
    assert eventually(lambda: sample("engines_ready") == 1)
    assert sample("engine_restarts_total") == 1
    folders = {Path(value).parent for engine in host.engines for value in _open_files(engine)}
    assert len(folders) == 1
    assert host.end() == 0
    assert not folders.pop().exists()


def test_a_metrics_port_that_is_taken_is_served_when_it_is_free(
    redis_url: str, start_host: StartHost, free_port: int
) -> None:
    with socket.create_server(("127.0.0.1", free_port)):
        host = start_host(redis_url, metrics_port=free_port)
        host.wait_for("engine_ready")
        assert host.events("metrics_port_taken")
    assert host.wait_for("metrics_served")["port"] == free_port
    assert host.end() == 0


def _open_files(process: psutil.Process) -> list[str]:
    return [file.path for file in process.memory_maps() if file.path.endswith(".db")]


def test_every_line_of_the_log_is_json_and_none_shows_the_password(
    own_redis: "EmbeddedRedis", redis_with_password: str, start_host: StartHost
) -> None:
    host = start_host(redis_with_password, log_level="debug")
    host.wait_for("engine_ready")
    assert host.end() == 0
    assert {"host_starting", "engine_started", "host_ended"} <= {line["event"] for line in host.lines}
    assert {line["logger"].split(".")[0] for line in host.lines} >= {"headrace", "celery"}
    assert "hunter2" not in host.log.read_text()


@pytest.fixture
def redis_with_password(own_redis: "EmbeddedRedis") -> str:
    from headrace.schemas.redis.connection import connect

    with connect(own_redis.url) as redis:
        redis.config_set("requirepass", "hunter2")
    return own_redis.url.replace("://", "://:hunter2@")


def test_the_host_imports_no_torch() -> None:
    code = (
        "import sys, headrace.workers.host.run; print(sorted({'torch', 'transformers'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert found.stdout == "[]\n"


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (["--engines", "0"], "setting engines"),
        (["--classes", "interactive,urgent"], "setting classes"),
        (["--redis", "http://localhost"], "is not a Redis URL"),
        (["--served-name", "my model"], "served_name: no client can enqueue to 'my model'"),
        (["--metrics-port", "1", "--metrics-host", "192.0.2.1"], "setting metrics_port"),
    ],
)
def test_a_wrong_setting_is_named_before_anything_starts(flags: list[str], complaint: str) -> None:
    code = (
        "import typer; from headrace.cli.worker import register; app = typer.Typer(); "
        "app.callback()(lambda: None); register(app); app()"
    )
    command = [sys.executable, "-c", code, "worker", "--model", "demo", *flags]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 2
    last = ended.stderr.splitlines()[-1]
    assert last.startswith("headrace worker: ")
    assert complaint in last
    assert "engine_started" not in json.dumps(ended.stderr)
