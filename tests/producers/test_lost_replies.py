"""Redis did it, but its reply was lost on the way: the same again changes nothing."""

import select
import socket
import threading

import pytest

from headrace import Client, DeliveryState, JobNotFound
from headrace.producers.operate.admin import Admin
from headrace.producers.steps import Read, Write, drive
from headrace.schemas import ids, keys
from headrace.schemas.keys import Tag
from headrace.schemas.redis.call import script
from headrace.schemas.scripts import (
    ClaimRequest,
    accept_delivery,
    claim,
    claim_deliveries,
    heartbeat,
    recover,
    run,
    settle_delivery,
)
from headrace.schemas.settings.queue import QueueSettings
from headrace.schemas.tenants import VERSION
from headrace.schemas.webhooks.delivery import DeliveryAttempt

pytestmark = pytest.mark.leaves_jobs

TAG = Tag("m")


class LosesReplies(threading.Thread):
    """A proxy that passes everything on, but cuts the connection instead of passing on chosen replies.

    Attributes:
        to_lose: replies yet to be lost, of requests with `command` in them.
        meanwhile: what happens when one is lost, before it is asked again.
    """

    def __init__(self, target_port: int) -> None:
        super().__init__(daemon=True)
        self.target_port, self.to_lose, self.lost = target_port, 0, 0
        self.command, self.meanwhile = b"EVALSHA", lambda: None
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.start()

    def run(self) -> None:
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.serve, args=(client,), daemon=True).start()

    def serve(self, client: socket.socket) -> None:
        losing = False
        with client, socket.create_connection(("127.0.0.1", self.target_port)) as server:
            while True:
                for readable in select.select([client, server], [], [])[0]:
                    data = readable.recv(1 << 20)
                    if not data:
                        return
                    if readable is client:
                        losing = losing or (self.to_lose > 0 and self.command in data)
                        server.sendall(data)
                    elif losing:
                        self.to_lose -= 1
                        self.lost += 1
                        self.meanwhile()
                        return
                    else:
                        client.sendall(data)


@pytest.fixture
def lossy(redis_url):
    proxy = LosesReplies(int(redis_url.rpartition(":")[2].partition("/")[0]))
    with Client(f"redis://127.0.0.1:{proxy.port}/0", check_model=False) as client:
        client.enqueue("warm up", model="m").cancel()
        yield client, proxy
    proxy.listener.close()


def test_a_job_enqueued_again_after_a_lost_reply_is_one_job(lossy, redis):
    client, proxy = lossy
    proxy.to_lose = 2
    job = client.enqueue("x", model="m")
    assert proxy.lost == 2
    assert (job.status().state, redis.xlen("hr:{m:0}:lane:standard:default")) == ("queued", 1)


def test_many_jobs_enqueued_again_after_a_lost_reply_are_as_many(lossy, redis):
    client, proxy = lossy
    proxy.to_lose = 1
    jobs = client.enqueue_many([{"prompt": str(number), "model": "m"} for number in range(20)])
    assert proxy.lost == 1
    assert len({job.id for job in jobs}) == redis.xlen("hr:{m:0}:lane:standard:default") == 20


def test_a_cancel_repeated_after_a_lost_reply_says_that_the_job_has_ended(lossy):
    client, proxy = lossy
    job = client.enqueue("x", model="m")
    proxy.to_lose = 1
    assert job.cancel() in {"cancelled", "already"}
    assert job.status().state == "cancelled"


@pytest.fixture
def operated(lossy, redis):
    """A queue with a dead letter, a delivery that failed and a worker, whose scripts Redis knows already."""
    client, proxy = lossy
    for name in ("requeue_dead", "drop_dead", "replay_delivery"):
        redis.script_load(script(name).source)
    redis.hset(keys.models(), "m", '{"id": "m"}')
    job = client.enqueue("x", model="m", max_attempts=1)
    run(redis, claim(TAG, ClaimRequest("worker-1", "n", 60_000, 10**6, 10)))
    run(redis, recover(TAG, "worker-1", QueueSettings(), blamed=True, how="killed by SIGSEGV"))
    entry = redis.xadd(TAG.outbox, {"job": "x"}).decode()
    fields = {
        "job_id": ids.new_job_id("m"),
        "event": "job.failed",
        "tenant": "t",
        "url": "https://a.example",
    }
    run(redis, accept_delivery(TAG, entry, **fields, body="{}", secret="", retention_s=600))
    send(redis, DeliveryState.FAILED)
    run(redis, heartbeat(TAG, "w1", {"model": "m"}))
    return client, proxy, job


def send(redis, state):
    """Try the delivery that is due, which ends so."""
    (due,) = run(redis, claim_deliveries(TAG, 1, 60, "n")).due
    assert run(redis, settle_delivery(due, state, DeliveryAttempt(), 600))


def test_a_dead_letter_queued_again_whose_reply_was_lost_is_told_as_queued(operated, redis):
    client, proxy, job = operated
    proxy.to_lose = 2
    assert client.admin.requeue_dead_letter(job.id) == job.id
    assert proxy.lost == 2
    assert (job.status().state, redis.xlen(TAG.dead)) == ("queued", 0)


def test_a_dead_letter_dropped_whose_reply_was_lost_is_told_as_dropped(operated):
    client, proxy, job = operated
    (letter,) = client.admin.dead_letters()
    proxy.to_lose = 1
    assert client.admin.drop_dead_letter(letter) == job.id
    assert proxy.lost == 1
    with pytest.raises(JobNotFound):
        client.admin.drop_dead_letter(letter)


def test_a_delivery_replayed_whose_reply_was_lost_is_sent_again_once(operated, redis):
    client, proxy, _ = operated
    (delivery,) = client.admin.deliveries()
    proxy.to_lose, proxy.meanwhile = 1, lambda: send(redis, DeliveryState.DELIVERED)
    client.admin.replay_delivery(delivery.id)
    assert proxy.lost == 1
    assert client.admin.delivery(delivery.id).state is DeliveryState.DELIVERED
    assert run(redis, claim_deliveries(TAG, 1, 60, "n")).due == []


def test_a_policy_whose_reply_was_lost_holds_and_is_copied(operated, redis):
    client, proxy, _ = operated
    proxy.to_lose, proxy.command = 1, b"HINCRBY"
    policy = client.admin.set_tenant("acme", weight=2)
    assert proxy.lost == 1
    assert client.admin.tenant("acme") == policy
    assert redis.hget(TAG.tenants, "acme") == policy.to_wire().encode()
    assert redis.hget(TAG.tenants, VERSION) in {None, redis.hget(keys.tenants(), VERSION)}


def test_a_request_says_whether_it_writes(operated, redis):
    client, _, job = operated
    link, sent = client._link(), []

    def perform(request):
        sent.append(request)
        return link.perform(request)

    admin = Admin(client._operations, lambda steps: drive(steps, perform), client._url)
    (letter,), (delivery,) = admin.dead_letters(), admin.deliveries()
    admin.dead_letter(letter.entry), admin.delivery(delivery.id)
    admin.workers(), admin.queues(), admin.models(), admin.tenants()
    admin.requeue_dead_letter(letter), admin.replay_delivery(delivery.id), admin.drain_worker("w1")
    admin.set_tenant("acme", weight=2), admin.drop_tenant("acme")
    admin.drop_secret("acme", admin.add_secret("acme").id)
    job.cancel()
    redis.delete(TAG.workers, TAG.outbox)
    admin.forget_model("m")
    drive(client._operations.celery_key(), perform)

    def commands(kind):
        return [
            {command[0].lower() for command in request.commands} for request in sent if type(request) is kind
        ]

    known = redis.execute_command("COMMAND")
    writing = {name for name, about in known.items() if "write" in about["flags"]}
    assert set().union(*commands(Read)) & writing == set()
    assert all(names & writing for names in commands(Write))
    assert set().union(*commands(Write)) & writing == {"hset", "hincrby", "hdel", "set", "del"}
