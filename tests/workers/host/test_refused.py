"""What Celery's broker refuses is Flower's loss: the host goes on, its engine processes never notice."""

from collections.abc import Iterator

import pytest

from headrace.local.embedded_redis import EmbeddedRedis

from ..refusals import CONSUMING, TELLING, Refusals
from .test_host import Eventually, StartHost, celery_on

pytestmark = [pytest.mark.serial, pytest.mark.timeout(180)]

ERRORS = [
    "OOM command not allowed when used memory > 'maxmemory'.",
    "READONLY You can't write against a read only replica.",
    "NOPERM this user has no permissions to run this command or its subcommand",
    "MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist to disk.",
    "LOADING Redis is loading the dataset in memory",
    "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
    "UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)",
    "NOAUTH Authentication required.",
    "WRONGPASS invalid username-password pair or user is disabled.",
    "CLUSTERDOWN The cluster is down",
    "MOVED 3999 127.0.0.1:1",
    "CROSSSLOT Keys in request don't hash to the same slot",
    "BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.",
    "EXECABORT Transaction discarded because of previous errors.",
    "ERR max number of clients reached",
    "ERR something that nobody has heard of",
]
MOMENTS = [(), CONSUMING, TELLING]


@pytest.fixture
def broker(own_redis: EmbeddedRedis) -> Iterator[Refusals]:
    """What stands between the host and a Redis."""
    proxy = Refusals(int(own_redis.url.rpartition(":")[2].removesuffix("/0")))
    yield proxy
    proxy.close()


def test_a_host_outlives_whatever_its_broker_refuses_and_is_seen_again_afterwards(
    broker: Refusals, own_redis: EmbeddedRedis, start_host: StartHost, eventually: Eventually
) -> None:
    host = start_host(broker.url)
    host.wait_for("engine_ready")
    engines = host.engines
    with celery_on(own_redis.url) as celery:
        for error in ERRORS:
            for commands in MOMENTS:
                refused = broker.count
                broker.refuse(error, commands)
                if commands is CONSUMING:
                    broker.disconnect()
                eventually(lambda refused=refused: broker.count > refused)
                assert host.process.poll() is None, (error, commands)
                broker.relent()
                eventually(lambda: celery.ask(host, "ping"))
    assert host.engines == engines
    assert not host.events("engine_died")
    assert {line["reason"].partition(":")[0] for line in host.events("celery_awaited")}
    assert host.end() == 0
    assert host.events("engine_drained")


@pytest.mark.parametrize("commands", MOMENTS)
def test_a_host_that_is_refused_from_the_start_is_seen_when_it_no_longer_is(
    broker: Refusals, own_redis: EmbeddedRedis, start_host: StartHost, eventually: Eventually, commands
) -> None:
    broker.refuse(ERRORS[0], commands)
    host = start_host(broker.url)
    host.wait_for("engine_ready")
    eventually(lambda: broker.count >= 3)
    assert len(host.events("celery_awaited")) <= 1  # none where Celery itself says it
    broker.relent()
    with celery_on(own_redis.url) as celery:
        assert eventually(lambda: celery.ask(host, "stats"))["engine_0_state"] == "ready"
    assert host.end() == 0


@pytest.mark.parametrize("commands", MOMENTS)
def test_a_host_whose_broker_refuses_hands_over_and_ends_when_told_to(
    broker: Refusals, own_redis: EmbeddedRedis, start_host: StartHost, eventually: Eventually, commands
) -> None:
    host = start_host(broker.url)
    host.wait_for("engine_ready")
    broker.refuse(ERRORS[1], commands)
    broker.disconnect()
    eventually(lambda: broker.count >= 2)
    assert host.end() == 0
    assert host.events("engine_drained")
