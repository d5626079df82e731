"""`headrace callbacks` beside a Celery broker that refuses: webhooks go on, and so does the process."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from headrace.local.embedded_redis import EmbeddedRedis

from ...support.waiting import wait_until
from ..refusals import CONSUMING, TELLING, Refusals

pytestmark = [pytest.mark.serial, pytest.mark.timeout(180)]

ERRORS = [
    "OOM command not allowed when used memory > 'maxmemory'.",
    "READONLY You can't write against a read only replica.",
    "NOPERM this user has no permissions to run this command or its subcommand",
    "UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)",
]

ENTRY = """\
import sys
from headrace.workers.celery_worker import consumer
consumer.FIRST_PAUSE_S = consumer.MOST_PAUSE_S = 0.2
sys.argv = ["headrace", "callbacks", "--webhook-allow", "127.0.0.1"]
from headrace.cli import main
main()
"""


@pytest.fixture
def broker(own_redis: EmbeddedRedis) -> Iterator[Refusals]:
    """What stands between callbacks and Celery's broker."""
    proxy = Refusals(int(own_redis.url.rpartition(":")[2].removesuffix("/0")))
    yield proxy
    proxy.close()


@contextmanager
def running_callbacks(redis_url: str, broker_url: str, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """It must end well, when told to."""
    environment = {"HEADRACE_REDIS_URL": redis_url, "HEADRACE_CELERY_BROKER_URL": broker_url}
    with log.open("wb") as out:
        process = subprocess.Popen([sys.executable, "-c", ENTRY], env=os.environ | environment, stderr=out)
    try:
        yield process
        process.terminate()
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("commands", [(), CONSUMING, TELLING])
def test_webhooks_go_on_while_celerys_broker_refuses(broker, redis_url, jobs, receiver, tmp_path, commands):
    log = tmp_path / "callbacks.log"

    def delivered() -> None:
        count = len(receiver.received)
        jobs.ended(webhook={"url": receiver.url})
        wait_until(lambda: len(receiver.received) > count)

    broker.refuse(ERRORS[0], commands)
    with running_callbacks(redis_url, broker.url, log) as process:
        delivered()
        for error in ERRORS:
            refused = broker.count
            broker.refuse(error, commands)
            broker.disconnect()
            wait_until(lambda refused=refused: broker.count > refused)
            delivered()
            assert process.poll() is None, error
    assert "Unrecoverable" not in log.read_text()
