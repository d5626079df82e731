"""Redis as people run it: Sentinel, Cluster, TLS, a replica that must confirm."""

import asyncio
import contextlib
import gc
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from headrace import AsyncClient, BrokerUnavailable, Client, JobHandle, StreamReset
from headrace.local.embedded_redis.server import free_port
from headrace.schemas import keys
from headrace.schemas.keys import Tag
from headrace.schemas.redis.connection import connect

from ..chaos.proxy import Proxy
from ..support.processes import Running, headrace, running
from ..support.waiting import wait_until
from .conftest import assert_whole, leaked_keys

pytestmark = [pytest.mark.serial, pytest.mark.timeout(180)]

FIELDS = {"prompt": "A generator is", "model": "demo", "ignore_eos": True}


@pytest.fixture
def partitions(monkeypatch):
    """Three queues a model, for workers and clients."""
    monkeypatch.setenv("HEADRACE_PARTITIONS", "3")
    return 3


def run_jobs(url: str, redis, partitions: int) -> None:
    """Whole jobs by both clients, read live and from the log."""
    with Client(url, partitions=partitions) as client:
        jobs = [client.enqueue(**FIELDS, max_tokens=20) for _ in range(3 * partitions)]
        assert {int(job.id.split(".")[1]) for job in jobs} <= set(range(partitions))
        for job in jobs:
            seen = [token for chunk in job.stream(timeout_s=60) for token in chunk.token_ids]
            assert seen == assert_whole(redis, job)
        many = client.enqueue_many({**FIELDS, "max_tokens": 4} for _ in range(20))
        assert {job.result(timeout_s=60).state for job in many} == {"succeeded"}
        _operate(client, partitions)
        assert client.queues() == []
        wait_until(lambda: [worker.running for worker in client.workers()] == [0])  # by its next heartbeat
    asyncio.run(run_async(url, partitions))


def _operate(client: Client, partitions: int) -> None:
    """Hold jobs back, purge them, find them, and run one of them after all."""
    client.admin.pause("demo")
    held = [client.enqueue(**FIELDS, max_tokens=4) for _ in range(2 * partitions)]
    assert client.admin.purge("demo") == len(held)
    assert client.admin.resume("demo")
    page = client.admin.jobs("demo", state="cancelled")
    assert ({job.job_id for job in page.jobs}, page.cursor) == ({job.id for job in held}, None)
    again = client.job(client.admin.retry(held[0].id))
    assert again.result(timeout_s=60).usage.completion_tokens == 4


async def run_async(url: str, partitions: int) -> None:
    async with AsyncClient(url, partitions=partitions) as client:
        job = await client.enqueue(**FIELDS, max_tokens=20)
        seen = [token async for chunk in job.stream(timeout_s=60) for token in chunk.token_ids]
        assert seen == list((await job.result(timeout_s=10)).token_ids)


def test_jobs_run_on_a_cluster_with_their_queues_on_several_nodes(cluster_url, partitions, start_worker):
    start_worker(cluster_url)
    with connect(cluster_url) as redis:
        run_jobs(cluster_url, redis, partitions)
        assert leaked_keys(redis) == []


def test_webhooks_are_sent_on_a_cluster(cluster_url, partitions, tmp_path):
    tags = [Tag("demo", partition) for partition in range(partitions)]
    with connect(cluster_url) as redis, Client(cluster_url, partitions=partitions) as client:
        redis.hset(keys.models(), "demo", "{}")
        for tag in tags:
            redis.xadd(tag.outbox, {"nonsense": 1})
        with callbacks(cluster_url, tmp_path) as running_callbacks:
            hook = {"url": "http://127.0.0.1:9/hook"}
            for job in client.enqueue_many({**FIELDS, "delay_s": 100, "webhook": hook} for _ in range(9)):
                job.cancel()
            wait_until(lambda: running_callbacks.said().count('"webhook"') >= 9, 30)
            wait_until(lambda: not any(redis.xlen(tag.outbox) for tag in tags), 30)


def test_jobs_of_several_partitions_run_on_one_redis(redis_url, redis, partitions, start_worker):
    start_worker(redis_url)
    run_jobs(redis_url, redis, partitions)


def test_an_idle_worker_hears_the_bell_of_every_partition(redis_url, partitions, start_worker):
    start_worker(redis_url)
    with Client(redis_url, partitions=partitions) as client:
        waits = []
        for _ in range(12):
            job = client.enqueue(**FIELDS, max_tokens=1)
            waits.append(job.result(timeout_s=30).timings.queued_s)
    print(f"wait of a job for an idle worker of three partitions: at most {max(waits):.3f} s")


def follow(job: JobHandle, seen: list[int]) -> None:
    """Read a job's stream to its end, also where a replica had not received all that was read."""
    while True:
        try:
            for chunk in job.stream(from_offset=len(seen)):
                seen.extend(chunk.token_ids)
            return
        except StreamReset as reset:
            del seen[reset.offset :]


def test_a_sentinel_failover_under_load_loses_nothing(sentinel, start_worker, expected_tokens):
    worker = start_worker(sentinel.url, options={"lease_s": 4})
    fields = {**FIELDS, "max_tokens": 700}
    jobs = [worker.client.enqueue(**fields, seed=seed) for seed in range(4)]
    seen: list[int] = []
    reader = threading.Thread(target=lambda: follow(jobs[0], seen))
    reader.start()
    wait_until(lambda: len(seen) > 30)
    sentinel.servers.kill(sentinel.primary)
    killed_at, before = time.monotonic(), len(seen)
    wait_until(lambda: len(seen) > before + 50)
    print(f"from kill -9 of the primary to the stream's next tokens: {time.monotonic() - killed_at:.1f} s")
    late = worker.client.enqueue(**FIELDS, max_tokens=5)
    assert sentinel.now_primary() == sentinel.replicas[0]
    reader.join(timeout=90)
    with connect(sentinel.url) as redis:
        for job in jobs:
            job.result(timeout_s=90)
        expected = expected_tokens.of_each([{**fields, "seed": seed} for seed in range(4)])
        assert [assert_whole(redis, job) for job in jobs] == expected
        assert seen == assert_whole(redis, jobs[0])
        late.result(timeout_s=30)
        assert leaked_keys(redis) == []
    assert worker.events("engine_died") == []


def test_a_failover_behind_an_address_is_borne(redis_servers):
    old = redis_servers.start()
    new = redis_servers.start("--replicaof", "127.0.0.1", str(old))
    wait_until(lambda: redis_servers.ask(new, "INFO")["master_link_status"] == "up", 20)
    proxy = Proxy(old)
    with contextlib.closing(proxy), Client(proxy.url, check_model=False, retry_s=10) as client:
        client.enqueue(**FIELDS)
        asyncio.run(_fail_over(redis_servers, proxy, old, new))
        assert client.enqueue(**FIELDS).status().state == "queued"


async def _fail_over(servers, proxy, old: int, new: int) -> None:
    async with AsyncClient(proxy.url, check_model=False, retry_s=10) as client:
        await asyncio.gather(*(client.enqueue(**FIELDS) for _ in range(20)))  # as many connections
        servers.ask(new, "REPLICAOF", "NO", "ONE")
        servers.ask(old, "REPLICAOF", "127.0.0.1", new)
        proxy.redirect(new)
        jobs = await asyncio.gather(*(client.enqueue(**FIELDS) for _ in range(40)))
        assert {(await job.status()).state for job in jobs} == {"queued"}
    gc.collect()  # a connection that was lost on the way would be a ResourceWarning, and so an error


def test_a_job_that_no_replica_confirms_is_said_to_be_at_risk(redis_url, redis):
    with Client(redis_url, check_model=False, wait_replicas=1, wait_s=0.05, retry_s=0.2) as client:
        with pytest.raises(BrokerUnavailable, match="0 of 1 replicas have confirmed"):
            client.enqueue(**FIELDS, idempotency_key="k")
        with Client(redis_url, check_model=False) as other:
            other.enqueue(**FIELDS, idempotency_key="k").cancel()


def test_a_confirmed_job_is_on_the_replica_when_enqueue_returns(redis_servers):
    primary = redis_servers.start()
    replica = redis_servers.start("--replicaof", "127.0.0.1", str(primary))
    wait_until(lambda: redis_servers.ask(replica, "INFO")["master_link_status"] == "up", 20)
    url = f"redis://127.0.0.1:{primary}/0"
    with Client(url, check_model=False, wait_replicas=1, wait_s=5) as client:
        for _ in range(20):
            job = client.enqueue(**FIELDS)
            redis_servers.ask(primary, "PING")
            with connect(f"redis://127.0.0.1:{replica}/0") as copy:
                assert list(copy.scan_iter(f"*:job:{job.id}"))
        assert len(client.enqueue_many([FIELDS] * 3)) == 3
    asyncio.run(_confirmed_async(url))


async def _confirmed_async(url: str) -> None:
    async with AsyncClient(url, check_model=False, wait_replicas=1, wait_s=5) as client:
        await client.enqueue(**FIELDS)


@pytest.fixture
def tls_url(redis_servers, tmp_path) -> str:
    """A Redis that speaks TLS alone; skipped where the server was built without it."""
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    openssl = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", *subject]
    subprocess.run([*openssl, "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True)
    files = ["--tls-cert-file", str(certificate), "--tls-key-file", str(key), "--tls-auth-clients", "no"]
    from headrace.local.embedded_redis.server import free_port

    port = free_port()
    try:
        redis_servers.start("--tls-port", str(port), *files)
    except AssertionError:
        pytest.skip("this redis-server was built without TLS")
    return f"rediss://127.0.0.1:{port}/0?ssl_ca_certs={certificate}"


def test_jobs_run_over_tls(tls_url, start_worker):
    start_worker(tls_url)
    with connect(tls_url) as redis:
        run_jobs(tls_url, redis, 1)
    with pytest.raises(BrokerUnavailable, match=r"(?i)certificate"):
        Client(tls_url.partition("?")[0], retry_s=0).models()


def test_a_client_over_tls_ends_its_connections_however_slow_the_server_is_to_agree(tls_url, redis_servers):
    (server,) = redis_servers.processes.values()
    with warnings.catch_warnings(action="ignore", category=ResourceWarning):
        gc.collect()  # what other tests left is not this client's
    with connect(tls_url) as redis:
        client = Client(tls_url, check_model=False)
        job = client.enqueue(**FIELDS)
        reader = threading.Thread(target=_read_until_closed, args=(job,))
        reader.start()
        wait_until(lambda: redis.client_list(_type="pubsub"))
        server.send_signal(signal.SIGSTOP)
        thaw = threading.Timer(0.5, server.send_signal, (signal.SIGCONT,))
        thaw.start()
        client.close()
        for thread in (thaw, reader):
            thread.join()
    gc.collect()  # what was not ended is a ResourceWarning, and so an error


def _read_until_closed(job) -> None:
    with pytest.raises(BrokerUnavailable, match="closed"):
        list(job.stream())


CELERY_AND_WEBHOOK = """
from headrace.celery import generate
hook = {"url": "http://127.0.0.1:9/hook"}
found = generate.delay("A list is", max_tokens=4, ignore_eos=True, webhook=hook).get(timeout=40)
print(found["usage"]["completion_tokens"])
"""


def callbacks(url: str, folder: Path) -> contextlib.AbstractContextManager[Running]:
    """`headrace callbacks` on a Redis; it must end well."""
    options = ("callbacks", "--webhook-allow", "127.0.0.1")
    return headrace(*options, redis_url=url, log=folder / "callbacks.log", ends_well=True)


@contextlib.contextmanager
def running_flower(url: str, log: Path) -> Iterator[tuple[Path, dict[str, object]]]:
    """Flower on a Redis: its log, and the workers that it sees, once it sees both."""
    port = free_port()
    place = ("--address=127.0.0.1", f"--port={port}")
    environment = {"HEADRACE_REDIS_URL": url, "FLOWER_UNAUTHENTICATED_API": "true"}
    command = ("-m", "celery", "-A", "headrace.celery", "flower", *place)

    def workers() -> dict[str, object]:
        try:
            with urllib.request.urlopen(
                f"http://127.0.0.1:{port}/api/workers?refresh=1", timeout=20
            ) as reply:
                found: dict[str, object] = json.loads(reply.read())
        except OSError:
            return {}
        return found if len(found) == 2 else {}

    with running(*command, log=log, **environment):
        yield log, wait_until(workers, 40)


def test_a_worker_needs_no_more_rights_than_the_printed_acl_line(redis_servers, start_worker, tmp_path):
    port = redis_servers.start()
    environment = os.environ | {"HEADRACE_REDIS_URL": f"redis://127.0.0.1:{port}/0"}
    for name, role in (
        ("worker", "worker"),
        ("backend", "producer"),
        ("after", "callbacks"),
        ("op", "operator"),
    ):
        line = subprocess.run(
            [sys.executable, "-m", "headrace.cli", "acl", "--role", role, "--user", name],
            capture_output=True,
            text=True,
            check=True,
            env=environment,
        ).stdout.strip()
        redis_servers.ask(port, *line.replace("<password>", "secret").split())
    worker_url, client_url, callbacks_url = (
        f"redis://{name}:secret@127.0.0.1:{port}/0" for name in ("worker", "backend", "after")
    )
    worker = start_worker(worker_url)
    redis = connect(f"redis://127.0.0.1:{port}/0")
    run_jobs(client_url, redis, 1)
    flower_url = f"redis://op:secret@127.0.0.1:{port}/0"
    with (
        callbacks(callbacks_url, tmp_path) as after,
        running_flower(flower_url, tmp_path / "flower.log") as (flower_log, seen),
    ):
        assert {name.partition("@")[0] for name in seen} == {"headrace", "callbacks"}
        told = subprocess.run(
            [sys.executable, "-c", CELERY_AND_WEBHOOK],
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
            env=environment | {"HEADRACE_REDIS_URL": client_url},
        ).stdout
        assert told == "4\n"
        wait_until(lambda: '"webhook"' in after.said(), 30)
    assert worker.stop() == 0
    for said in (after.said(), worker.log.read_text(), flower_log.read_text()):
        assert "NoPermission" not in said
        assert "NOPERM" not in said
        assert '"level": "error"' not in said
    with connect(client_url) as limited, pytest.raises(Exception, match=r"(?i)no permissions"):
        limited.config_get("*")
    with connect(client_url) as limited, pytest.raises(Exception, match=r"(?i)no permissions"):
        limited.set("somebody-else", 1)
    redis.close()


def test_a_head_that_does_not_fit_holds_up_its_own_partition_alone(redis_url, partitions, start_worker):
    worker = start_worker(redis_url, options={"num_pages": 65, "max_context_tokens": 1024})
    with Client(redis_url, partitions=partitions) as client:
        long_job = client.enqueue(**FIELDS, max_tokens=1000)
        wait_until(lambda: long_job.status().offset > 10)
        large = client.enqueue(**FIELDS, max_tokens=1000)
        small = client.enqueue_many({**FIELDS, "max_tokens": 2} for _ in range(12))
        elsewhere = [job for job in small if job.id.split(".")[1] != large.id.split(".")[1]]
        for job in (*small, large, long_job):
            job.result(timeout_s=90)
        assert min(job.status().finished_ms for job in elsewhere) < long_job.status().finished_ms
    assert worker.events("engine_died") == []
