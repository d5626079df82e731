"""`headrace callbacks` beside a Celery broker that refuses: webhooks go on, and so does the process."""

from collections.abc import Iterator

import pytest

from headrace.local.embedded_redis import EmbeddedRedis

from ...support.processes import running
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


@pytest.mark.parametrize("commands", [(), CONSUMING, TELLING])
def test_webhooks_go_on_while_celerys_broker_refuses(broker, redis_url, jobs, receiver, tmp_path, commands):
    places = {"HEADRACE_REDIS_URL": redis_url, "HEADRACE_CELERY_BROKER_URL": broker.url}
    log = tmp_path / "callbacks.log"

    def delivered() -> None:
        count = len(receiver.received)
        jobs.ended(webhook={"url": receiver.url})
        wait_until(lambda: len(receiver.received) > count)

    broker.refuse(ERRORS[0], commands)
    with running("-c", ENTRY, log=log, ends_well=True, **places) as callbacks:
        delivered()
        for error in ERRORS:
            refused = broker.count
            broker.refuse(error, commands)
            broker.disconnect()
            wait_until(lambda refused=refused: broker.count > refused)
            delivered()
            assert not callbacks.ended, error
    assert "Unrecoverable" not in callbacks.said()
