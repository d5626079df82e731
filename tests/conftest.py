"""Fixtures for all tests: a real Redis, the command line, and checks that no key or process is left.

What a fixture needs beyond the standard library is imported inside it, so that tests of `engine/` and
`kernels/` run where redis and pydantic are not installed.
"""

import gc
import io
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

if TYPE_CHECKING:
    import psutil
    from redis import Redis

    from headrace.local.embedded_redis import EmbeddedRedis

    from .support.forkserver import Forkserver

gc.disable()  # until all is collected: imports leave little garbage, and each pass goes through all of them
os.environ.setdefault("OMP_NUM_THREADS", "1")  # torch: test processes share the cores
os.environ.setdefault("HEADRACE_SPARE_ENGINE", "false")  # tests of it ask for it; others need no process more

_UNENDED_JOB = re.compile(rb"[^{]+\{[^}]+\}:(job|out):.+")
_END_S = 5.0
_TOGETHER = ("tests/integration/with_celery/", "tests/test_pages.py")
_MARK = "TEST_OF_HEADRACE_"


def pytest_configure() -> None:
    """What the command line prints must not depend on the terminal or CI system that the tests run under."""
    for name in ("COLUMNS", "FORCE_COLOR", "GITHUB_ACTIONS", "PY_COLORS"):
        os.environ.pop(name, None)
    # A shell that runs us in the background has us ignore Ctrl-C, and with us every process that we start.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """What has been imported stays; no garbage collection need go through it."""
    gc.freeze()
    gc.enable()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Keep tests that share an installation together, which xdist 3.8's `loadgroup` doesn't under pytest 9.2.

    There it names the groups in a field of the tests that pytest reads no more.
    """
    if config.getvalue("dist") != "loadgroup":
        return None
    from xdist.scheduler import LoadGroupScheduling

    class Together(LoadGroupScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return next((path for path in _TOGETHER if nodeid.startswith(path)), super()._split_scope(nodeid))

    return Together(config, log)


@pytest.fixture(scope="session")
def redis_server(no_process_left: None) -> Iterator["EmbeddedRedis"]:
    """The Redis that this process's tests share; a test that stops or configures one takes `own_redis`."""
    from headrace.local.embedded_redis import EmbeddedRedis

    with EmbeddedRedis() as server:
        yield server


@pytest.fixture
def own_redis() -> Iterator["EmbeddedRedis"]:
    """A Redis of the test's own, to stop, kill and start again."""
    from headrace.local.embedded_redis import EmbeddedRedis

    with EmbeddedRedis() as server:
        yield server


@pytest.fixture
def redis_url(redis_server: "EmbeddedRedis", request: pytest.FixtureRequest) -> Iterator[str]:
    """An empty Redis; fails the test if it leaves a key without TTL that is not one of the permanent ones.

    The keys of jobs that have not ended count too, unless the test is marked `leaves_jobs`.
    """
    from headrace.schemas.keys import is_permanent
    from headrace.schemas.redis.connection import connect

    jobs_may_stay = request.node.get_closest_marker("leaves_jobs") is not None
    with connect(redis_server.url) as redis:
        redis.flushall()
        yield redis_server.url
        leaked = [
            key.decode()
            for key in redis.scan_iter(count=1000)
            if redis.ttl(key) == -1
            and not is_permanent(key.decode(), namespace=key.decode().partition(":")[0])
            and not (jobs_may_stay and _UNENDED_JOB.fullmatch(key))
        ]
        redis.flushall()
    assert not leaked, f"keys left without TTL: {leaked}"


@pytest.fixture
def redis(redis_url: str) -> Iterator["Redis"]:
    """A plain connection to `redis_url`; replies are bytes."""
    from headrace.schemas.redis.connection import connect

    with connect(redis_url) as connection:
        yield connection


@pytest.fixture(scope="session")
def forkserver(no_process_left: None) -> Iterator["Forkserver"]:
    """Where workers start from; it has imported what they need."""
    from .support.forkserver import Forkserver

    server = Forkserver(["tests.support.worker_modules", "tests.support.pace"])
    yield server
    server.close()


@pytest.fixture
def free_port() -> int:
    """A TCP port that nobody uses now."""
    from headrace.local.embedded_redis.server import free_port

    return free_port()


@pytest.fixture(scope="session", autouse=True)
def no_process_left() -> Iterator[None]:
    """Fail at the end if a process that a test started is still there (orphans too: all inherit a mark)."""
    try:
        import psutil
    except ImportError:
        yield
        return
    mark = f"{_MARK}{uuid4().hex}"
    os.environ[mark] = "1"
    yield
    del os.environ[mark]
    _, left = psutil.wait_procs(_started_here(mark), timeout=_END_S)
    left = [process for process in left if not _is_inits(process)]
    commands = [_command(process) for process in left]
    for process in left:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    assert not left, f"processes left behind: {commands}"


def _started_here(mark: str) -> list["psutil.Process"]:
    import psutil

    found = set(psutil.Process().children(recursive=True))
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if mark in process.environ():
                found.add(process)
    found.discard(psutil.Process())
    return [process for process in found if "resource_tracker" not in _command(process)]


def _is_inits(process: "psutil.Process") -> bool:
    """Whether it has ended, and only waits for init to notice: a daemon's end."""
    import psutil

    try:
        return process.status() == psutil.STATUS_ZOMBIE and process.ppid() == 1
    except psutil.NoSuchProcess:
        return True


def _command(process: "psutil.Process") -> str:
    import psutil

    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return f"process {process.pid}"


@dataclass(frozen=True, slots=True)
class Ran:
    """What a command came to."""

    returncode: int
    stdout: str
    stderr: str

    @property
    def output(self) -> str:
        return self.stdout + self.stderr


def environment(**extra: str) -> dict[str, str]:
    """What a command is given: no settings of headrace but `extra`, no colours, and buffered output."""
    inherited = {name: value for name, value in os.environ.items() if not _is_setting(name)}
    inherited.pop("PYTHONUNBUFFERED", None)
    return inherited | {"NO_COLOR": "1", "COLUMNS": "200", "TERM": "dumb"} | extra


def _is_setting(name: str) -> bool:
    return name.startswith("HEADRACE_")


@pytest.fixture
def cli(
    tmp_path: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Ran]:
    """Run `headrace` on the test's Redis, in an empty folder and in this process, which has loaded it."""
    from headrace.cli import main

    def call(*arguments: str, stdin: str | bytes = "", **extra: str) -> Ran:
        with monkeypatch.context() as patch:
            patch.chdir(tmp_path)
            given = environment(**({"HEADRACE_REDIS_URL": redis_url} | extra))
            for name in os.environ.keys() - given.keys():
                patch.delenv(name)
            for name, value in given.items():
                patch.setenv(name, value)
            patch.setattr(sys, "argv", ["headrace", *arguments])
            given = stdin.encode() if isinstance(stdin, str) else stdin
            patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(given)))
            status = 0
            try:
                main()
            except SystemExit as end:
                status = int(end.code or 0)
        return Ran(status, *capsys.readouterr())

    return call
