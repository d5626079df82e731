"""Fixtures for the worker's tests: engine stand-ins under a supervisor, and whole hosts."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

from ..support.forkserver import HELPER, Forked, Forkserver
from ..support.waiting import WAIT_S, wait_until

HERE = Path(__file__).parent


@pytest.fixture
def eventually() -> Callable[..., Any]:
    """`eventually(predicate, timeout_s=...)` waits for a true value and returns it."""
    return wait_until


@pytest.fixture
def engine_command() -> Callable[[str], list[str]]:
    """The command of an engine stand-in of a given behaviour."""
    return lambda behaviour: [sys.executable, str(HERE / "fake_engine.py"), behaviour]


@dataclass
class Host:
    """A host process and what it logged."""

    process: Forked
    log: Path
    engines_seen: set[psutil.Process] = field(default_factory=set)

    @property
    def lines(self) -> list[dict[str, Any]]:
        """Its log; every line is JSON."""
        return [
            json.loads(line) for line in self.log.read_text().splitlines(keepends=True) if line[-1] == "\n"
        ]

    def events(self, name: str) -> list[dict[str, Any]]:
        """The log lines of one event."""
        return [line for line in self.lines if line["event"] == name]

    def wait_for(self, event: str, count: int = 1, timeout_s: float = WAIT_S) -> dict[str, Any]:
        """The `count`-th line of an event."""
        wait_until(lambda: len(self.events(event)) >= count or self.process.poll() is not None, timeout_s)
        return self.events(event)[count - 1]

    @property
    def engines(self) -> list[psutil.Process]:
        """Its engine processes."""
        children = psutil.Process(self.process.pid).children()
        engines = [child for child in children if child.name() != HELPER]
        self.engines_seen.update(engines)
        return engines

    def end(self, signum: int = signal.SIGTERM, timeout_s: float = WAIT_S) -> int:
        """Send a signal and wait for the exit status."""
        self.process.send_signal(signum)
        return int(self.process.wait(timeout_s))


@pytest.fixture(scope="session")
def host_forkserver(no_process_left: None) -> Iterator[Forkserver]:
    """Where hosts start from; it has imported what they need."""
    server = Forkserver(["tests.support.host_modules"])
    yield server
    server.close()


@pytest.fixture
def start_host(tmp_path: Path, host_forkserver: Forkserver) -> Iterator[Callable[..., Host]]:
    """`start_host(redis_url, behaviour, **settings)` starts a host whose engine process is a stand-in."""
    hosts: list[Host] = []

    def start(redis_url: str, behaviour: str = "serve", **settings: Any) -> Host:
        log = tmp_path / f"host-{len(hosts)}.log"
        command = [
            sys.executable,
            str(HERE / "fake_host.py"),
            json.dumps({"redis_url": redis_url, "model": "demo", "spare_engine": False, **settings}),
        ]
        with log.open("wb") as stderr:
            process = host_forkserver.start([*command, behaviour], stderr=stderr, stdout=subprocess.DEVNULL)
        hosts.append(Host(process, log))
        return hosts[-1]

    yield start
    for host in hosts:
        left = host.engines if host.process.poll() is None else []
        if host.process.poll() is None:
            host.process.kill()
        host.process.wait(WAIT_S)
        psutil.wait_procs([*left, *host.engines_seen], timeout=WAIT_S)
