"""What may happen to a worker, to Redis and to the network between them, one by one."""

import os
import signal
import threading
import time
from pathlib import Path

import pytest

from headrace import BrokerUnavailable, Client, JobNotFound
from headrace.schemas import keys
from headrace.schemas.ids import new_job_id
from headrace.schemas.job import SCHEMA_VERSION
from headrace.schemas.keys import Tag
from headrace.schemas.redis.connection import connect
from headrace.schemas.scripts import enqueue, run
from headrace.schemas.settings.queue import QueueSettings
from headrace.schemas.wire import WireJob

from ..chaos.proxy import Proxy
from ..support.waiting import wait_until
from .conftest import assert_whole, leaked_keys

pytestmark = [pytest.mark.serial, pytest.mark.timeout(180)]

STEP_S = 0.03
"""A token takes this long: what happens in the middle of a job has seconds."""

LONG = {"prompt": "A generator is", "model": "demo", "max_tokens": 320, "ignore_eos": True, "seed": 11}
MIDDLING = {**LONG, "max_tokens": 150}
SHORT = {"prompt": "A set", "model": "demo", "max_tokens": 5}


class Reader(threading.Thread):
    """Reads a stream to its end; what it saw, and when."""

    def __init__(self, job) -> None:
        super().__init__()
        self.job, self.tokens, self.gap_s, self.error = job, [], 0.0, None
        self.start()

    def run(self) -> None:
        last = time.monotonic()
        try:
            for chunk in self.job.stream():
                self.gap_s = max(self.gap_s, time.monotonic() - last)
                last = time.monotonic()
                self.tokens += chunk.token_ids
        except JobNotFound as error:
            self.error = error

    def wait_for(self, tokens: int) -> None:
        wait_until(lambda: len(self.tokens) >= tokens)

    def end(self) -> list[int]:
        self.join(timeout=90)
        assert not self.is_alive()
        return self.tokens


def idle(client: Client) -> bool:
    workers = client.workers()
    return bool(workers) and all(w.running == 0 and w.pages_free == w.pages_total for w in workers)


def test_a_worker_that_wakes_up_after_its_lease_writes_nothing_and_serves_again(
    redis_url, redis, start_worker, expected_tokens
):
    worker = start_worker(redis_url, engines=2, options={"lease_s": 1}, step_s=STEP_S)
    reader = Reader(job := worker.client.enqueue(**MIDDLING))
    reader.wait_for(20)
    zombie = job.status().worker
    pid = worker.engine_of(zombie)
    os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: job.status().worker not in {zombie, None})
    offset = job.status().offset
    wait_until(lambda: job.status().offset > offset)
    os.kill(pid, signal.SIGCONT)
    wait_until(lambda: any(line.get("worker") == zombie for line in worker.events("job_lost")))
    assert reader.end() == assert_whole(redis, job) == expected_tokens(**MIDDLING)
    wait_until(lambda: idle(worker.client))
    (other,) = {w.id for w in worker.client.workers()} - {zombie}
    worker.client.admin.drain_worker(other)
    wait_until(lambda: [w.id for w in worker.client.workers()] == [zombie])
    assert worker.client.enqueue(**SHORT).result(timeout_s=60).worker == zombie
    assert worker.events("engine_died") == []
    assert leaked_keys(redis) == []


def test_when_host_and_engine_die_at_once_the_lease_brings_the_stream_back(
    redis_url, redis, start_worker, expected_tokens
):
    workers = [start_worker(redis_url, step_s=STEP_S) for _ in range(2)]
    reader = Reader(job := workers[0].client.enqueue(**MIDDLING))
    reader.wait_for(20)
    name = job.status().worker
    (dying,) = [w for w in workers if name in {e["engine"] for e in w.events("engine_ready")}]
    engine = dying.engine_of(name)
    dying.process.kill()
    os.kill(engine, signal.SIGKILL)
    tokens = reader.end()
    print(f"longest silence of the stream: {reader.gap_s:.2f} s (lease 2 s)")
    assert tokens == assert_whole(redis, job) == expected_tokens(**MIDDLING)


@pytest.mark.parametrize("fault", ["cut", "break_up"])
def test_a_worker_cut_from_redis_stops_and_another_goes_on(
    redis_url, redis, start_worker, expected_tokens, fault
):
    proxy = Proxy(int(redis_url.rpartition(":")[2].partition("/")[0]))
    try:
        far = start_worker(proxy.url, options={"lease_s": 1}, step_s=STEP_S)
        with Client(redis_url) as client:
            reader = Reader(job := client.enqueue(**LONG))
            reader.wait_for(20)
            getattr(proxy, fault)()  # before the other one starts, which takes longer than the job might
            near = start_worker(redis_url, options={"lease_s": 1})
            names = {event["engine"] for event in near.events("engine_ready")}
            wait_until(lambda: job.status().worker in names)
            proxy.heal()
            assert reader.end() == assert_whole(redis, job) == expected_tokens(**LONG)
            near.stop()
            assert client.enqueue(**SHORT).result(timeout_s=60).state == "succeeded"
        assert far.events("engine_died") == []
    finally:
        for process in (far.process,):
            process.terminate()
            process.wait(timeout=30)
        proxy.close()


def test_redis_killed_under_load_comes_back_with_everything(own_redis, start_worker, expected_tokens):
    worker = start_worker(own_redis.url, engines=2, step_s=STEP_S)
    jobs = [worker.client.enqueue(**{**MIDDLING, "seed": seed}) for seed in range(4)]
    reader = Reader(jobs[0])
    reader.wait_for(20)
    os.kill(own_redis.pid, signal.SIGKILL)
    own_redis.stop()
    own_redis.start()
    with connect(own_redis.url) as redis:
        for job in jobs:
            job.result(timeout_s=90)
        expected = expected_tokens.of_each([{**MIDDLING, "seed": seed} for seed in range(4)])
        assert [assert_whole(redis, job) for job in jobs] == expected
        assert reader.end() == assert_whole(redis, jobs[0])
        assert leaked_keys(redis) == []


def test_redis_that_comes_back_empty_ends_streams_with_an_error_and_serves_again(own_redis, start_worker):
    worker = start_worker(own_redis.url, step_s=STEP_S)
    reader = Reader(worker.client.enqueue(**LONG))
    reader.wait_for(20)
    os.kill(own_redis.pid, signal.SIGKILL)
    own_redis.stop()
    for file in Path(own_redis.data_dir).rglob("*.aof*"):
        file.unlink()
    own_redis.start()
    reader.end()
    assert isinstance(reader.error, JobNotFound)
    wait_until(lambda: [model.id for model in worker.client.models()] == ["demo"])
    assert worker.client.enqueue(**SHORT).result(timeout_s=60).state == "succeeded"
    wait_until(lambda: idle(worker.client))
    assert worker.events("engine_died") == []


@pytest.mark.parametrize("shift_s", [3600, -3600])
def test_time_is_redis_own_whatever_the_workers_clock_says(redis_url, start_worker, shift_s):
    """With an injected clock: see shifted_clock/."""
    environment = {
        "PYTHONPATH": str(Path(__file__).with_name("shifted_clock")),
        "SHIFT_S": str(shift_s),
    }
    worker = start_worker(redis_url, environment=environment, step_s=0.02)
    client = worker.client
    delayed = client.enqueue(**SHORT, delay_s=1.0)
    late = client.enqueue(**SHORT, delay_s=5.0, deadline_s=0.3)
    cut_short = client.enqueue(**{**LONG, "seed": 1}, max_runtime_s=2.0)
    overdue = client.enqueue(**{**LONG, "seed": 2}, deadline_s=0.4)
    timings = delayed.result(timeout_s=60).timings
    assert 1.0 <= timings.queued_s < 30
    for job in (late, cut_short, overdue):
        wait_until(lambda job=job: job.status().state == "expired", 60)
    assert (late.status().offset, cut_short.status().offset > 0) == (0, True)
    held = client.enqueue(**MIDDLING)
    held.result(timeout_s=60)
    assert held.status().attempts == 0


def test_an_older_worker_leaves_what_it_does_not_understand_to_a_newer_one(redis_url, start_worker, redis):
    old = start_worker(redis_url)
    job_id = new_job_id("demo")
    newer = WireJob.make(**SHORT, v=SCHEMA_VERSION + 1, tenant="early")
    run(redis, enqueue(Tag("demo"), job_id, newer, QueueSettings()))
    others = [old.client.enqueue(**SHORT), old.client.enqueue(**SHORT, job_class="batch")]
    assert {job.result(timeout_s=60).state for job in others} == {"succeeded"}
    assert old.client.job(job_id).status().state == "queued"
    start_worker(redis_url, engine="newer_engine.py")
    result = old.client.job(job_id).result(timeout_s=60)
    assert result.worker not in {event["engine"] for event in old.events("engine_ready")}
    assert old.client.enqueue(**SHORT).result(timeout_s=60).state == "succeeded"


def test_a_finished_jobs_effects_survive_its_worker(redis_url, redis, start_worker):
    worker = start_worker(redis_url)
    job = worker.client.enqueue(**SHORT, webhook={"url": "https://example.com/hook"})
    name = job.result(timeout_s=60).worker
    worker.kill_engine(name)
    worker.process.kill()
    worker.process.wait()
    entries = [fields[b"event"] for _, fields in redis.xrange(Tag("demo").outbox)]
    assert entries == [b"job.succeeded"]


def test_subscribers_that_never_read_hold_nobody_up(own_redis, start_worker):
    import socket

    with connect(own_redis.url) as redis:
        redis.config_set("client-output-buffer-limit", "pubsub 32kb 8kb 1")
    worker = start_worker(own_redis.url)
    job = worker.client.enqueue(**{**LONG, "max_tokens": 1900})
    port = int(own_redis.url.rpartition(":")[2].partition("/")[0])
    dead = []
    for _ in range(50):
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        sock.connect(("127.0.0.1", port))
        sock.sendall(f"SUBSCRIBE {Tag('demo').chan(job.id)}\r\n".encode())
        dead.append(sock)
    reader = Reader(job)
    reader.wait_for(20)
    with connect(own_redis.url) as redis:
        redis.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        assert reader.end() == assert_whole(redis, job)
    for sock in dead:
        sock.close()
    assert worker.events("redis_lost") == []


def test_a_full_redis_refuses_new_jobs_while_running_ones_finish(own_redis, start_worker):
    worker = start_worker(own_redis.url, step_s=STEP_S)
    jobs = [worker.client.enqueue(**{**MIDDLING, "seed": seed}) for seed in range(3)]
    wait_until(lambda: all(job.status().offset > 20 for job in jobs))
    with connect(own_redis.url) as redis:
        redis.config_set("maxmemory", redis.info("memory")["used_memory"] // 2)
        with pytest.raises(BrokerUnavailable, match="out of memory"):
            worker.client.enqueue(**SHORT)
        for job in jobs:
            assert job.result(timeout_s=90).attempts == 0
            assert len(assert_whole(redis, job)) == MIDDLING["max_tokens"]
        redis.config_set("maxmemory", 0)
    assert worker.client.enqueue(**SHORT).result(timeout_s=60).state == "succeeded"
    assert worker.events("engine_died") == []


def test_a_worker_started_on_a_full_redis_serves_what_waits(own_redis, start_worker):
    with connect(own_redis.url) as redis, Client(own_redis.url) as client:
        redis.hset(keys.models(), "demo", "{}")
        jobs = [client.enqueue(**SHORT) for _ in range(3)]
        redis.hdel(keys.models(), "demo")
        redis.config_set("maxmemory", redis.info("memory")["used_memory"] // 2)
        worker = start_worker(own_redis.url)
        assert [job.result(timeout_s=90).state for job in jobs] == ["succeeded"] * 3
        assert not redis.hexists(keys.models(), "demo")
        assert len(worker.events("registration_refused")) == 1
        redis.config_set("maxmemory", 0)
        wait_until(lambda: redis.hexists(keys.models(), "demo"))
