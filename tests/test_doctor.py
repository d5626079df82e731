"""`headrace doctor` on a Redis with good and with bad settings."""

import json
import re
import time
from collections.abc import Callable, Iterator

import pytest
from redis import Redis
from redis.exceptions import RedisError

from headrace import Client, ResultTimeout
from headrace.producers.celery.message import celery_part
from headrace.producers.operate import waiting_queues
from headrace.producers.operate.rights import denied_commands
from headrace.schemas import ids, keys
from headrace.schemas.keys import NAMESPACE, Tag
from headrace.schemas.presence import note_presence
from headrace.schemas.redis import acl
from headrace.schemas.redis.acl import Role, acl_line
from headrace.schemas.redis.connection import connect
from headrace.schemas.scripts import ClaimRequest, claim, heartbeat, recover, run
from headrace.schemas.settings.queue import QueueSettings

from .conftest import Ran

Findings = dict[str, dict[str, str]]
Examine = Callable[..., Findings]


@pytest.fixture
def examine(cli: Callable[..., Ran]) -> Examine:
    """Let the doctor look at a Redis; its findings by check."""

    def look(url: str, *, status: int) -> Findings:
        ran = cli("doctor", "--json", "--redis", url)
        assert ran.returncode == status, ran.stderr
        return {finding["check"]: finding for finding in json.loads(ran.stdout)}

    return look


def test_a_redis_as_headrace_starts_it_is_fine(examine, redis_url: str) -> None:
    found = examine(redis_url, status=0)
    assert {found[check]["verdict"] for check in ("version", "eviction", "persistence", "latency")} == {"ok"}
    assert found["headrace"]["found"]


def test_settings_that_lose_jobs_are_failures_with_the_command_that_mends_them(examine, own_redis) -> None:
    with connect(own_redis.url) as redis:
        redis.config_set("maxmemory-policy", "allkeys-lru")
        redis.config_set("appendonly", "no")
        redis.config_set("maxmemory", redis.info("memory")["used_memory"] + 10_000)
        redis.config_set("timeout", 60)
    found = examine(own_redis.url, status=1)
    assert {found[check]["verdict"] for check in ("eviction", "persistence", "memory")} == {"fail"}
    assert found["eviction"]["advice"].startswith("CONFIG SET maxmemory-policy noeviction")
    assert found["timeout"]["verdict"] == "warn"


def test_jobs_that_nobody_serves_are_a_failure(examine, redis_url: str, redis: Redis) -> None:
    redis.hset(keys.models(), "demo", "{}")
    redis.zadd(keys.Tag("demo").backlog("standard"), {"default": 0})
    found = examine(redis_url, status=1)
    assert "headrace worker --model demo" in found["demo: workers"]["advice"]


def test_a_redis_that_does_not_answer_is_said_in_one_line(examine) -> None:
    found = examine("redis://127.0.0.1:1/0", status=1)
    assert found["redis"]["verdict"] == "fail"


def test_a_user_who_may_not_read_the_settings_is_told_what_could_not_be_seen(examine, own_redis) -> None:
    with connect(own_redis.url) as redis:
        redis.execute_command("ACL", "SETUSER", "few", "on", ">secret", "~*", "&*", "+@all", "-config")
    found = examine(own_redis.url.replace("://", "://few:secret@"), status=0)
    assert found["config"]["verdict"] == "warn"


@pytest.mark.leaves_jobs
def test_an_interrupted_job_that_nobody_serves_is_a_failure_too(
    examine, redis_url: str, redis: Redis
) -> None:
    redis.hset(keys.models(), "demo", "{}")
    tag = Tag("demo")
    with Client.from_env(redis_url) as client:
        client.enqueue("x", model="demo")
    run(redis, claim(tag, ClaimRequest("worker-1", "n", 60_000, 10**6, 1)))
    assert examine(redis_url, status=1)["demo: workers"]["verdict"] == "fail"  # its worker has gone
    run(redis, recover(tag, "worker-1", QueueSettings(), blamed=False, how="handed over"))
    assert examine(redis_url, status=1)["demo: workers"]["verdict"] == "fail"  # it waits for another


@pytest.fixture
def client(redis_url: str, redis: Redis) -> Iterator[Client]:
    """A client of the model demo, which one worker serves."""
    redis.hset(keys.models(), "demo", "{}")
    run(redis, heartbeat(Tag("demo"), "w", {"pages_free": 1}))
    with Client.from_env(redis_url) as client:
        yield client


@pytest.mark.leaves_jobs
def test_a_tenant_at_its_limit_is_said_in_the_words_that_its_clients_see(
    examine, redis_url: str, redis: Redis, client: Client
) -> None:
    client.admin.set_tenant("t", max_running=1)
    client.enqueue("x", model="demo", tenant="t")
    run(redis, claim(Tag("demo"), ClaimRequest("w", "n", 60_000, 10**6, 1)))
    job = client.enqueue("x", model="demo", tenant="t")
    with pytest.raises(ResultTimeout) as late:
        job.result(timeout_s=0)
    found = examine(redis_url, status=0)["demo: tenant limit"]
    said = f"job {job.id} waits: {late.value.why}; the first in its queue has waited "
    assert re.fullmatch(re.escape(said) + r"\d+ s", found["found"])
    advice = "raise it with headrace tenants set, if the workers have room"
    assert (found["verdict"], found["advice"]) == ("warn", advice)
    client.admin.drop_tenant("t")


@pytest.mark.leaves_jobs
def test_a_class_that_no_worker_serves_is_a_failure(
    examine, redis_url: str, redis: Redis, client: Client
) -> None:
    run(redis, heartbeat(Tag("demo"), "w", {"classes": "interactive"}))
    for tenant in ("a", "b"):
        client.enqueue("x", model="demo", tenant=tenant)
    found = examine(redis_url, status=1)["demo: class not served"]
    assert "no worker of model 'demo' serves the class standard" in found["found"]
    assert found["found"].endswith("(and 1 more queue)")


@pytest.mark.leaves_jobs
def test_a_queue_is_too_long_when_its_jobs_have_waited_for_long(
    examine, redis_url: str, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(3):
        client.enqueue("x", model="demo")
    found = examine(redis_url, status=0)["demo: queue"]
    assert (found["verdict"], "behind 2 jobs of tenant 'default'" in found["found"]) == ("ok", True)
    monkeypatch.setattr(waiting_queues, "LONG_S", 0.0)
    found = examine(redis_url, status=0)["demo: queue"]
    assert (found["verdict"], found["advice"]) == (
        "warn",
        "jobs arrive faster than they are completed; add a worker: headrace worker --model demo",
    )


def test_two_models_under_one_name_are_said(examine, redis_url: str, redis: Redis) -> None:
    redis.hset(keys.models(), "demo", "{}")
    tag, facts = Tag("demo"), {"classes": "batch", "max_v": 1}
    for worker in ("w1", "w2"):
        run(redis, heartbeat(tag, worker, {**facts, "fingerprint": "a" * 16}))
    assert examine(redis_url, status=0)["demo: fingerprints"]["found"] == f"{'a' * 16} by 2"
    run(redis, heartbeat(tag, "w2", {**facts, "fingerprint": "b" * 16}))
    found = examine(redis_url, status=0)["demo: fingerprints"]
    assert (found["verdict"], found["found"]) == ("warn", f"{'a' * 16} by 1, {'b' * 16} by 1")


def test_a_worker_that_fell_silent_is_no_worker(examine, redis_url: str, redis: Redis) -> None:
    redis.hset(keys.models(), "demo", "{}")
    tag, now_ms = Tag("demo"), 1000 * int(time.time())
    redis.zadd(tag.backlog("standard"), {"default": 0})
    redis.zadd(tag.workers, {"worker-1": now_ms - 3_600_000})
    assert examine(redis_url, status=1)["demo: workers"]["found"] == "0"
    redis.zadd(tag.workers, {"worker-2": now_ms})
    assert examine(redis_url, status=0)["demo: workers"]["found"] == "1"


@pytest.mark.parametrize("denied", ["eval", "del", "xadd", "publish", "zincrby"])
def test_a_user_who_lacks_a_right_of_the_scripts_is_told_which(examine, own_redis, denied: str) -> None:
    with connect(own_redis.url) as redis:
        redis.execute_command("ACL", "SETUSER", "few", "on", ">secret", "~*", "&*", "+@all", f"-{denied}")
        found = examine(own_redis.url.replace("://", "://few:secret@"), status=1)["rights"]
        assert (found["verdict"], found["found"]) == ("fail", f"refused: {denied}")
        assert redis.keys() == []


def test_the_operators_user_may_do_all_that_the_doctor_does(examine, own_redis) -> None:
    with connect(own_redis.url) as redis:
        redis.execute_command(*acl_line(Role.OPERATOR, "op").replace("<password>", "secret").split())
        redis.hset(keys.models(), "demo", "{}")
    found = examine(own_redis.url.replace("://", "://op:secret@"), status=0)
    assert found["rights"]["verdict"] == found["demo: workers"]["verdict"] == "ok"
    assert "redis" not in {check for check, finding in found.items() if finding["verdict"] == "fail"}


@pytest.fixture
def producers_url(own_redis) -> str:
    """A Redis as a producer's user."""
    with connect(own_redis.url) as redis:
        redis.execute_command(*acl_line(Role.PRODUCER, "p").replace("<password>", "secret").split())
        redis.hset(keys.models(), "demo", '{"id": "demo"}')
    return own_redis.url.replace("://", "://p:secret@")


def test_a_producers_user_is_told_of_no_right_that_it_needs_not(examine, producers_url: str) -> None:
    found = examine(producers_url, status=0)
    assert found["rights"]["verdict"] == "ok"
    assert found["queue"]["found"] == "not checked: this user lacks the rights, which producers don't need"


def test_a_producers_user_enqueues_and_reads_and_can_touch_neither_secrets_nor_tenants(
    own_redis, producers_url: str
) -> None:
    tag = Tag("demo")
    with Client.from_env(producers_url) as client:
        job = client.enqueue("x", model="demo", idempotency_key="k", delay_s=60)
        assert client.enqueue("x", model="demo", idempotency_key="k", delay_s=60).id == job.id
        assert [model.id for model in client.models()] == ["demo"]
        assert client._run(client._operations.celery_key())
        assert client.queues() is not None
        assert client.workers() == []
        job.cancel()
        assert job.status().state == "cancelled"
    with connect(producers_url) as redis, connect(own_redis.url) as operator:
        operator.hset(keys.webhook_secrets("acme"), "1", "whsec_secret")
        for command in (
            ("HGETALL", keys.webhook_secrets("acme")),
            ("HSET", keys.webhook_secrets("acme"), "2", "mine"),
            ("HGETALL", keys.tenants()),
            ("HSET", keys.tenants(), "acme", "{}"),
            ("PUBLISH", "/0.hr:celery:celery.pidbox", "shutdown"),
            ("PUBLISH", "hr:celery:/0.celery.pidbox", "shutdown"),
            ("EVAL", f"return redis.call('HGETALL', '{keys.webhook_secrets('acme')}')", "1", tag.base),
        ):
            with pytest.raises(RedisError, match=r"permission|NOPERM|ACL failure|executing"):
                redis.execute_command(*command)


def test_every_command_that_scripts_need_is_tried(own_redis) -> None:
    with connect(own_redis.url) as redis:
        redis.execute_command("ACL", "SETUSER", "none", "on", ">secret", "~*", "&*", "-@all", "+eval", "+del")
        with connect(own_redis.url.replace("://", "://none:secret@")) as user:
            tried = set(denied_commands(user, NAMESPACE)) | {"eval", "evalsha", "del"}
        assert tried >= set(acl._SCRIPTS.split())
        assert redis.keys() == []


def test_a_redis_that_refuses_is_not_taken_for_one_that_is_away(examine, own_redis) -> None:
    with connect(own_redis.url) as redis:
        redis.execute_command("ACL", "SETUSER", "few", "on", ">secret", "~*", "&*", "+@all", "-info")
    found = examine(own_redis.url.replace("://", "://few:secret@"), status=1)
    assert "refuses" in found["redis"]["advice"]


def test_a_user_who_may_not_ping_gets_a_finding_and_no_traceback(examine, own_redis) -> None:
    with connect(own_redis.url) as redis:
        redis.execute_command("ACL", "SETUSER", "few", "on", ">secret", "~*", "&*", "+@all", "-ping")
    found = examine(own_redis.url.replace("://", "://few:secret@"), status=1)
    assert "headrace acl" in found["redis"]["found"]


def test_an_outbox_that_nobody_reads_is_a_failure_from_the_start(
    examine, redis_url: str, redis: Redis
) -> None:
    redis.hset(keys.models(), "demo", "{}")
    outbox = Tag("demo").outbox
    redis.xadd(outbox, {"job": "x"})
    found = examine(redis_url, status=1)["demo: outbox"]
    assert found["found"] == "1 to relay, and no callbacks are alive"
    note_presence(redis, "headrace", NAMESPACE)
    assert examine(redis_url, status=0)["demo: outbox"]["verdict"] == "ok"
    redis.delete(outbox)
    redis.xadd(outbox, {"job": "x"}, id="1-0")
    assert "or one more" in examine(redis_url, status=1)["demo: outbox"]["advice"]


@pytest.mark.leaves_jobs
def test_tasks_of_an_app_without_callbacks_are_a_failure_from_the_start(
    examine, redis_url: str, redis: Redis
) -> None:
    redis.hset(keys.models(), "demo", "{}")
    tag, job_id = Tag("demo"), ids.new_job_id("demo")
    part = celery_part({"id": "t"}, {}, {}, "shop")
    redis.hset(tag.job(job_id), "spec", json.dumps({"celery": part}))
    redis.expire(tag.job(job_id), 60)
    redis.xadd(tag.outbox, {"job": job_id})
    note_presence(redis, "headrace", NAMESPACE)
    found = examine(redis_url, status=1)["demo: outbox"]
    assert found["found"] == "1 to relay, and no callbacks of the Celery app 'shop' are alive"
    note_presence(redis, "shop", NAMESPACE)
    assert examine(redis_url, status=0)["demo: outbox"]["verdict"] == "ok"
