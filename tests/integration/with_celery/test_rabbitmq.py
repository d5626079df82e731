"""A team whose broker is RabbitMQ and whose results are in Redis."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from celery import chord
from tests.support.waiting import wait_until

from headrace.local.embedded_redis.server import free_port

from .conftest import installed

pytestmark = [
    pytest.mark.slow,  # an installation of its own
    pytest.mark.serial,
    pytest.mark.xdist_group("celery"),  # they share an installation
    pytest.mark.filterwarnings("ignore:Call to deprecated setex"),  # Celery's result backend, with redis-py 8
]

SERVER = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
FIXED = {"max_tokens": 8, "temperature": 0, "ignore_eos": True}


@pytest.fixture
def rabbitmq_url(tmp_path) -> Iterator[str]:
    """A RabbitMQ on loopback; skips where none is installed."""
    if not SERVER.exists():
        pytest.skip("RabbitMQ is not installed")
    port, distribution, mapper = free_port(), free_port(), str(free_port())
    (tmp_path / "plugins").touch()
    environment = os.environ | {
        "HOME": str(tmp_path),
        "RABBITMQ_NODENAME": "test@localhost",
        "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
        "RABBITMQ_NODE_PORT": str(port),
        "RABBITMQ_DIST_PORT": str(distribution),
        "RABBITMQ_MNESIA_BASE": str(tmp_path / "mnesia"),
        "RABBITMQ_LOG_BASE": str(tmp_path / "log"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(tmp_path / "plugins"),
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
        "ERL_EPMD_ADDRESS": "127.0.0.1",
        "ERL_EPMD_PORT": mapper,
    }
    log = tmp_path / "rabbitmq.log"
    with log.open("wb") as out:
        process = subprocess.Popen([SERVER], env=environment, stdout=out, stderr=out, process_group=0)
    try:
        wait_until(lambda: b"completed with" in log.read_bytes() or process.poll() is not None)
        assert process.poll() is None, log.read_text()[-2000:]
        yield f"amqp://guest:guest@127.0.0.1:{port}//"
    finally:
        os.killpg(process.pid, 9)
        process.wait()
        for daemon in psutil.process_iter():  # Erlang's name server, which outlives who started it
            with suppress(psutil.Error):
                if daemon.name() == "epmd" and daemon.environ().get("ERL_EPMD_PORT") == mapper:
                    daemon.kill()


def test_generations_flower_and_revoke_with_rabbitmq_as_the_broker(rabbitmq_url, forkserver, tmp_path):
    with installed(tmp_path / "installation", forkserver, rabbitmq_url) as installation:
        generate, team = installation.team.generate, installation.team
        says = (
            installation.client.enqueue(prompt="A list is", model="demo", **FIXED).result(timeout_s=30).text
        )
        body = chord([generate.s("A list is", **FIXED), team.shout.s("x")])(team.join.s())
        assert body.get(timeout=30) == [says, "X"]
        by_name = team.app.send_task(
            "headrace.generate", ("A list is",), {"model": "demo", **FIXED}, queue="headrace"
        )
        assert by_name.get(timeout=30)["text"] == says
        # Here 9 is the most urgent: RabbitMQ's scale, the other way round than that of Celery's Redis.
        urgent = generate.apply_async(("A list is",), FIXED, priority=9)
        assert urgent.job.status().job_class == "interactive"
        long = generate.delay("A list is", max_tokens=1800, ignore_eos=True)
        wait_until(lambda: long.id in installation.flower("tasks?state=STARTED"), 20)
        installation.flower(f"task/revoke/{long.id}?terminate=true", "POST")
        wait_until(lambda: long.job.status().state == "cancelled", 10)
        wait_until(lambda: long.state == "REVOKED", 10)
        kinds = {name.partition("@")[0] for name in installation.flower("workers")}
        assert kinds == {"headrace", "callbacks", "team"}
