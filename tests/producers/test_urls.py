"""What a Redis URL may have that others brought into it: headrace works through all of them."""

import asyncio
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis

from headrace import AsyncClient, Client
from headrace.local.embedded_redis.binary import find_binary
from headrace.schemas.keys import Tag

from .conftest import MODEL, ScriptedWorker

OPTIONS = [
    *("decode_responses=true", "protocol=3", "max_connections=1", "retry_on_timeout=true", "db=0"),
    *(
        "client_name=billing",
        "socket_timeout=0.000001",
        "socket_connect_timeout=0",
        "health_check_interval=0",
    ),
    *("single_connection_client=true", "encoding=latin-1", "retry_on_error=x", "legacy_responses=false"),
    *("socket_read_size=1", "timeout=0.001", "socket_keepalive=false", "username=default"),
]


@pytest.mark.parametrize("option", OPTIONS)
async def test_a_client_works_whatever_options_its_url_has(
    option: str, redis_url: str, worker: ScriptedWorker
) -> None:
    url = f"{redis_url}?{option}"
    with Client(url) as client:
        job = client.enqueue("日本", model=MODEL, max_tokens=4, metadata={"a": "é日本"})
        running = worker.start()
        running.write(4)
        running.finish()
        assert [chunk.offset for chunk in job.stream(timeout_s=10)] == [4]
        assert job.status().metadata == {"a": "é日本"}
        assert [model.id for model in client.models()] == [MODEL]
    async with AsyncClient(url) as client:
        jobs = [client.job(job.id) for _ in range(40)]
        results = await asyncio.gather(*(job.result(timeout_s=10) for job in jobs))
        assert {result.finish_reason for result in results} == {"length"}


@pytest.fixture
def socket_url(tmp_path: Path, no_process_left: None) -> Iterator[str]:
    """A Redis that listens on a socket of this machine alone."""
    path = tmp_path / "r.sock"
    command = [
        str(find_binary()),
        "--port",
        "0",
        "--unixsocket",
        str(path),
        "--save",
        "",
        "--dir",
        str(tmp_path),
    ]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as server:
        yield f"unix://{path}"
        server.terminate()


async def test_a_client_works_over_a_socket_of_this_machine(socket_url: str, until, tmp_path: Path) -> None:
    until((tmp_path / "r.sock").exists)
    url = f"{socket_url}?db=2"
    with Redis(unix_socket_path=str(tmp_path / "r.sock"), db=2) as redis, Client(url) as client:
        worker = ScriptedWorker(redis, Tag(MODEL))
        job = client.enqueue("x", model=MODEL)
        running = worker.start()
        running.write(2)
        running.finish()
        assert [chunk.offset for chunk in job.stream(timeout_s=10)] == [2]
    async with AsyncClient(url) as client:
        assert (await client.job(job.id).result(timeout_s=10)).token_ids == (1000, 1001)
