from typing import Any

from redis import Redis

from headrace import Client
from headrace.schemas.keys import Tag
from headrace.schemas.scripts import ReleaseReason, forget_worker, heartbeat, release, run


def test_models_are_listed_with_what_their_worker_said(client: Client) -> None:
    (model,) = client.models()
    assert (model.id, model.context_tokens) == ("m", 4096)


def test_workers_are_listed_once_whatever_the_partitions(redis_url: str, redis: Redis, worker: Any) -> None:
    facts = {
        "model": "m",
        "pages_total": 10,
        "pages_free": 4,
        "running": 2,
        "pid": 7,
        "fingerprint": "ab",
        "later": "ignored",
    }
    tags = [Tag("m", partition) for partition in range(2)]
    for tag in tags:
        run(redis, heartbeat(tag, "w1", facts))
        run(redis, heartbeat(tag, "w0", facts))
    with Client(redis_url, partitions=2) as client:
        listed = client.workers()
    assert [
        (w.id, w.model, w.pages_total, w.pages_free, w.running, w.pid, w.fingerprint) for w in listed
    ] == [
        ("w0", "m", 10, 4, 2, 7, "ab"),
        ("w1", "m", 10, 4, 2, 7, "ab"),
    ]
    assert listed[0].heartbeat_ms > 0
    for tag in tags:
        forget_worker(redis, tag, "w0")
        forget_worker(redis, tag, "w1")


def test_queues_count_what_waits_and_what_runs(client: Client, redis: Redis, worker: Any) -> None:
    for tenant, job_class, count in (("a", "standard", 3), ("b", "standard", 1), ("a", "interactive", 1)):
        client.enqueue_many(
            {"prompt": "x", "model": "m", "tenant": tenant, "job_class": job_class} for _ in range(count)
        )
    running = [worker.start(), worker.start()]  # the interactive one, then one of the others

    def counts() -> list[tuple[str, str, int, int]]:
        return [(queue.job_class, queue.tenant, queue.depth, queue.running) for queue in client.queues()]

    assert counts()[0] == ("interactive", "a", 0, 1)
    assert sum(depth for _, _, depth, _ in counts()) == 3
    assert sum(count for _, _, _, count in counts()) == 2
    assert all(queue.bytes > 0 for queue in client.queues() if queue.depth)

    run(redis, release(running[0].tag, running[0]._segment(0, 0), ReleaseReason.DRAIN))
    assert counts()[0] == ("interactive", "a", 1, 0)
    again = worker.start(fingerprint="a" * 16)
    assert again.id == running[0].id
    assert counts()[0] == ("interactive", "a", 0, 1)
    again.write(1)
    worker.give_back(again)
    assert counts()[0] == ("interactive", "a", 1, 0)
    again = worker.start(fingerprint="a" * 16)
    again.finish()
    running[1].finish()
    assert sum(depth for _, _, depth, _ in counts()) == 3
    for left in worker.start_all().values():
        left.finish()
    assert counts() == []
