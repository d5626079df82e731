"""One Redis, one worker with the built-in model and one gateway, shared by all tests of a process.

Tests share them, so each asks for what it made and nothing else; keys are checked at the end. What changes a
gateway's settings, or kills one, starts its own with `tests.support.gateways.gateway`.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from headrace import Client
from headrace.schemas import keys
from headrace.schemas.keys import Tag
from headrace.schemas.redis.connection import connect

from ...support.forkserver import Forkserver
from ...support.processes import ANY_HOST, running
from ...support.waiting import wait_until
from ..conftest import MODEL, ScriptedWorker

if TYPE_CHECKING:
    from headrace.local.embedded_redis import EmbeddedRedis

    from ...support.gateways import RunningGateway


@pytest.fixture(scope="session")
def stack_redis(no_process_left: None) -> Iterator["EmbeddedRedis"]:
    """The Redis of the shared worker and gateway."""
    from headrace.local.embedded_redis import EmbeddedRedis

    with EmbeddedRedis() as server:
        yield server


@pytest.fixture(scope="session")
def worker(
    stack_redis: "EmbeddedRedis", forkserver: Forkserver, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """A worker with the built-in model in float32, ready; gives the file that may slow it (`slow_steps`)."""
    from ...support import paced_engine

    folder = tmp_path_factory.mktemp("worker")
    log, step_s = folder / "worker.log", folder / "step_s"
    run = (ANY_HOST, paced_engine.__file__, "--redis", stack_redis.url, "--model", "demo", "--device", "cpu")
    flags = ("--dtype", "float32", "--threads", "1", "--lease-s", "2")
    environment = {paced_engine.VARIABLE: str(step_s), "OMP_NUM_THREADS": "1"}
    with (
        running(*run, *flags, log=log, ends_well=True, forkserver=forkserver, **environment) as host,
        Client(stack_redis.url) as client,
    ):
        wait_until(lambda: client.workers() or host.ended)
        assert not host.ended, host.said()[-2000:]
        yield step_s


@pytest.fixture
def slow_steps(worker: Path) -> Callable[[], AbstractContextManager[None]]:
    """Within `with slow_steps():` the worker generates about twenty tokens a second."""

    @contextmanager
    def slow() -> Iterator[None]:
        worker.write_text("0.05")
        try:
            yield
        finally:
            worker.unlink()

    return slow


@pytest.fixture(scope="session")
def shared_gateway(stack_redis: "EmbeddedRedis") -> Iterator["RunningGateway"]:
    """A gateway without keys."""
    from ...support.gateways import gateway

    with gateway(stack_redis.url) as running:
        yield running


@pytest.fixture
def http(shared_gateway: "RunningGateway") -> Iterator[httpx.Client]:
    """A plain HTTP client of the shared gateway."""
    with httpx.Client(base_url=shared_gateway.url, timeout=90) as client:
        yield client


@pytest.fixture
def jobs(stack_redis: "EmbeddedRedis") -> Iterator[Client]:
    """A client of the shared Redis, to see what became of jobs."""
    with Client(stack_redis.url) as client:
        yield client


@pytest.fixture
def unserved(stack_redis: "EmbeddedRedis") -> Iterator[str]:
    """A model that was served once, so jobs for it wait forever."""
    with connect(stack_redis.url) as redis:
        redis.hset(keys.models(), "away", json.dumps({"id": "away", "context_tokens": 512}))
        yield "away"
        redis.hdel(keys.models(), "away")


@pytest.fixture
def scripted(stack_redis: "EmbeddedRedis") -> Iterator[ScriptedWorker]:
    """A worker that publishes its tokens in the portions that the test names."""
    with connect(stack_redis.url) as redis:
        yield ScriptedWorker(redis, Tag(MODEL))
        redis.hdel(keys.models(), MODEL)
