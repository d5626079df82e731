"""`headrace demo` and `headrace up`: what they start, show and stop."""

import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from headrace import Client
from headrace.cli import local
from headrace.local.stack import Stack

pytestmark = [pytest.mark.serial, pytest.mark.timeout(300)]


METRICS = (b"headrace_engines_ready", b"headrace_outbox", b"headrace_gateway_requests")
"""One of each part's, in the order of their ports."""


def other_port() -> int:
    """A free port for the gateway: the usual one is for the test of the README's commands."""
    from headrace.local.embedded_redis.ports import free_port

    return free_port()


@contextmanager
def headrace(
    *arguments: str, folder: Path, warnings: str = "error", **variables: str
) -> Iterator[subprocess.Popen[str]]:
    """The command, running in `folder`; fails if it leaves a process behind."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("HEADRACE_RE")}
    with subprocess.Popen(
        [sys.executable, "-W", warnings, "-m", "headrace.cli", *arguments],
        cwd=folder,
        env=inherited | {"NO_COLOR": "1", "TERM": "dumb"} | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.terminate()


def lines_until(process: subprocess.Popen[str], last: str) -> str:
    """What it prints up to the line that has `last`."""
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if last in line:
            return "".join(lines)
    raise AssertionError("".join(lines) + (process.stderr.read() if process.stderr else ""))


def paste(shown: str) -> str:
    """What comes of the three indented lines when they are pasted into a shell that knows nothing of us."""
    lines = [line for line in shown.splitlines() if line.startswith("  ")]
    assert [line.split()[0] for line in lines][:2] == ["export", "export"]
    assert len(lines) == 3
    bare = {"PATH": "/usr/bin:/bin", "HOME": "/nonexistent"}
    done = subprocess.run(
        ["bash", "-ec", "\n".join(lines)], env=bare, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def modules(process: psutil.Process) -> list[str]:
    """What the process has started, by module name."""
    commands = [child.cmdline() for child in process.children(recursive=True)]
    return [command[command.index("-m") + 1] for command in commands if "-m" in command]


def test_the_demo_shows_streams_a_celery_result_and_a_webhook(tmp_path):
    with headrace("demo", folder=tmp_path) as process:
        shown, errors = process.communicate(timeout=200)
    assert (process.returncode, errors) == (0, "")
    assert re.search(r"jobs finished +66 of 66", shown)
    assert re.search(r"tokens lost or repeated in streams +0", shown)
    assert re.search(r'generate.delay\("A list is"\).get\(\) +\w', shown)
    assert re.search(r"webhook, signature verified +job.succeeded at 20", shown)
    assert re.search(r"jobs resumed after kill -9 +[1-9]", shown)
    assert re.search(r"HTTP stream at another gateway +resumed at token \d+, none lost", shown)
    assert re.search(r"kill -9 \d+: the gateway that serves .* dies", shown)
    assert re.search(r"kill -9 \d+: engine \w dies at token \d+ of ", shown)
    *_, stopped, following, command = shown.splitlines()
    assert stopped == "Everything is stopped."
    assert following.startswith("Next, ")
    assert command == f"  {Path(sys.executable).parent / 'headrace'} up"


def test_up_serves_with_callbacks_and_flower_and_says_what_to_paste(tmp_path, free_port):
    metrics = {"HEADRACE_METRICS_PORT": str(free_port)}  # which worker and callbacks both read
    gateway = ("--gateway-port", str(other_port()))
    with headrace("up", "--device", "cpu", *gateway, folder=tmp_path, **metrics) as process:
        shown = lines_until(process, "Ctrl-C")
        (base_url,) = re.findall(r"OpenAI's API: (\S+),", shown)
        (console,) = re.findall(r"console: (\S+)", shown)
        (url,) = re.findall(r"ready: demo on (\S+)", shown)
        (flower,) = re.findall(r"Flower: (\S+)", shown)
        started = modules(psutil.Process(process.pid))
        with Client(url) as client:
            assert client.enqueue(prompt="x", model="demo", max_tokens=4).result(timeout_s=30).text
        with urllib.request.urlopen(f"{flower}/workers", timeout=30) as page:
            assert b"Flower" in page.read()
        with urllib.request.urlopen(f"{base_url}/models", timeout=30) as answer:
            assert b'"id":"demo"' in answer.read()
        with urllib.request.urlopen(console, timeout=30) as page:
            assert b"headrace" in page.read()
        parts = ("worker", "callbacks", "gateway")
        ports = ", ".join(f"{part} on port {port}" for port, part in enumerate(parts, free_port))
        assert f"metrics: {ports}\n" in shown
        for port, metric in enumerate(METRICS, free_port):
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as page:
                assert metric in page.read()
        assert paste(shown).strip()
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, "")
    workers = ["headrace.workers.engine_process.intake.process", "headrace.workers.engine_process.main"]
    assert sorted(started) == ["celery", *3 * ["headrace.cli"], *workers]
    assert {log.name for log in (tmp_path / ".headrace").glob("*.log")} == {
        "worker.log",
        "callbacks.log",
        "gateway.log",
        "flower.log",
    }


@pytest.mark.parametrize(("command", "signum"), [("up", signal.SIGTERM), ("demo", signal.SIGINT)])
def test_what_is_interrupted_while_it_starts_stops_what_it_had_started(tmp_path, command, signum):
    # A signal may come in the middle of redis-py's connecting, and leave a socket to the garbage collector.
    gateway = ("--gateway-port", str(other_port())) if command == "up" else ()
    with headrace(command, *gateway, folder=tmp_path, warnings="ignore::ResourceWarning") as process:
        started: list[psutil.Process] = []
        while len(started) < 4 + len(gateway) // 2:  # Redis, worker, callbacks, the gateway, Flower
            started = psutil.Process(process.pid).children()
        process.send_signal(signum)
        _, errors = process.communicate(timeout=60)
    assert "Traceback" not in errors
    assert process.returncode == (0 if command == "up" else 130)
    assert not [part for part in started if part.is_running()]


def test_an_interrupt_in_a_destructor_is_noticed_where_somebody_waits():
    code = """
import signal
from headrace.cli.interrupts import check_interrupts, raise_interrupts

class Interrupted:
    def __del__(self):
        signal.raise_signal(signal.SIGTERM)

raise_interrupts()
check_interrupts()
Interrupted()
try:
    check_interrupts()
except KeyboardInterrupt:
    print("noticed")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("noticed\n", "")


@pytest.mark.slow  # it starts everything once more
def test_a_part_that_ends_ends_all_and_is_named(tmp_path):
    gateway = ("--gateway-port", str(other_port()))
    with headrace("up", "--device", "cpu", *gateway, folder=tmp_path) as process:
        lines_until(process, "Ctrl-C")
        (callbacks,) = (
            child for child in psutil.Process(process.pid).children() if "callbacks" in child.cmdline()
        )
        callbacks.kill()
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert re.match(r"headrace: callbacks ended with status -9: ", errors)


def test_up_on_a_port_that_is_taken_says_so_and_starts_nothing(tmp_path, free_port, cli):
    with socket.create_server(("127.0.0.1", free_port)):
        ran = cli("up", "--port", str(free_port))
    assert (ran.returncode, ran.stdout) == (1, "")
    taken = f"another program listens on 127.0.0.1:{free_port}; choose another port"
    assert ran.stderr == f"headrace: --port {free_port}: {taken}\n"
    assert not (tmp_path / ".headrace").exists()


def test_two_that_start_at_once_give_their_gateways_two_ports(monkeypatch, free_port):
    monkeypatch.setattr(local, "GATEWAY_PORT", free_port)
    with local.gateway_socket() as first, local.gateway_socket() as second:
        assert first.getsockname()[1] == free_port
        assert second.getsockname()[1] not in (0, free_port)


def test_a_gateway_port_that_is_taken_is_said_before_anything_is_started(tmp_path, free_port, cli):
    with socket.create_server(("127.0.0.1", free_port)):
        ran = cli("up", "--gateway-port", str(free_port))
    taken = f"another program listens on 127.0.0.1:{free_port}; choose another port"
    assert (ran.returncode, ran.stderr) == (1, f"headrace: --gateway-port {free_port}: {taken}\n")
    assert not (tmp_path / ".headrace").exists()


def test_up_takes_a_port_or_a_redis_but_not_both(cli):
    ran = cli("up", "--port", "6400", "--redis", "redis://localhost:6379/0")
    assert ran.returncode == 2
    assert "--port is for the embedded Redis" in ran.stderr


def test_a_wrong_setting_is_said_before_anything_is_started(tmp_path, cli):
    ran = cli("up", HEADRACE_METRICS_PORT="many")
    assert ran.returncode == 2
    assert ran.stderr.startswith("headrace: setting metrics_port")
    assert not (tmp_path / ".headrace").exists()


def test_a_gateway_whose_kill_was_interrupted_ends_with_the_rest(tmp_path, monkeypatch):
    def interrupt() -> None:
        raise KeyboardInterrupt

    url = "http://127.0.0.1:1/v1"
    running = Stack("redis://127.0.0.1:1", tmp_path, 1, tmp_path.as_uri(), gateway_urls=[url])
    running.start("gateway", "http.server", "--bind", "127.0.0.1", "0")
    (gateway,) = running.parts
    with monkeypatch.context() as patched:
        patched.setattr(gateway.process, "kill", interrupt)
        with pytest.raises(KeyboardInterrupt):
            running.kill_gateway(url)
    running.stop()
    assert gateway.process.poll() is not None
