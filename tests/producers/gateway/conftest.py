"""One Redis, one worker with the built-in model and one gateway, shared by all tests of a process.

Tests share them, so each asks for what it made and nothing else; keys are checked at the end. What changes a
gateway's settings, or kills one, starts its own with `tests.support.gateways.gateway`.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from headrace import Client

from ...support.processes import headrace
from ...support.waiting import wait_until

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
def worker(stack_redis: "EmbeddedRedis", tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A `headrace worker` with the built-in model in float32, ready; gives its log."""
    log = tmp_path_factory.mktemp("worker") / "worker.log"
    flags = ("--model", "demo", "--device", "cpu", "--dtype", "float32", "--threads", "1", "--lease-s", "2")
    with (
        headrace(
            "worker", *flags, redis_url=stack_redis.url, log=log, ends_well=True, OMP_NUM_THREADS="1"
        ) as host,
        Client(stack_redis.url) as client,
    ):
        wait_until(lambda: client.workers() or host.ended)
        assert not host.ended, host.said()[-2000:]
        yield log


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
