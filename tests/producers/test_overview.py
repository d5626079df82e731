from typing import Any

import pytest
from redis import Redis

from headrace import Client
from headrace.producers.operate import overview
from headrace.producers.steps import Read, Request, drive
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


def test_many_jobs_are_counted_a_page_at_a_time(
    client: Client, worker: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.enqueue_many({"prompt": "x", "model": "m", "tenant": f"t{number % 3}"} for number in range(150))
    running = list(worker.start_all().values())
    for job in running[:20]:
        worker.give_back(job)
    client.enqueue_many({"prompt": "x", "model": "m", "tenant": f"t{number % 3}"} for number in range(10))
    whole = client.queues()
    assert (sum(each.running for each in whole), sum(each.depth for each in whole)) == (130, 30)
    monkeypatch.setattr(overview, "PAGE", 7)
    perform, most = client._link().perform, 0

    def bounded(request: Request) -> Any:
        nonlocal most
        if isinstance(request, Read):
            most = max(most, sum(command[0] == "HMGET" for command in request.commands))
            for command in request.commands:
                assert command[0] not in {"XRANGE", "ZSCAN"} or command[-1] == 7
        return perform(request)

    assert drive(overview.read_queues(client._operations), bounded) == whole
    assert 0 < most <= 7
    monkeypatch.setattr(overview, "MOST_JOBS", 50)
    assert sum(each.running for each in drive(overview.read_queues(client._operations), bounded)) <= 50
    for job in worker.start_all().values():
        job.finish()
    for job in running[20:]:
        job.finish()
