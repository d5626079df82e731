"""Purging queues: what waits is cancelled, and whoever follows it is told why."""

from typing import Any

import pytest
from redis import Redis

from headrace import AsyncClient, Client, JobCancelled, UnknownModel
from headrace.producers.operate import purge
from headrace.producers.operate.chosen import Chosen
from headrace.producers.steps import Calls, Request, drive

from .conftest import MODEL, ScriptedWorker

HOOK = {"url": "https://example.com/hook", "events": ["job.cancelled"]}


@pytest.fixture(autouse=True)
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(purge, "PAGE", 3)


def test_what_waits_is_cancelled_and_what_runs_goes_on(client: Client, worker: ScriptedWorker) -> None:
    job = {"model": MODEL, "prompt": "x"}
    handed_over = client.enqueue(**job)
    worker.give_back(worker.start())
    running = [client.enqueue(**job) for _ in range(3)]
    work = [worker.start(), *(worker.start() for _ in range(3))]
    worker.give_back(work[0])
    waiting = client.enqueue_many([job | {"tenant": f"t{number % 3}"} for number in range(11)])
    delayed = client.enqueue(**job, delay_s=600)
    assert client.admin.purge(MODEL) == 12
    assert {each.status().state for each in (handed_over, *waiting)} == {"cancelled"}
    assert {each.status().state for each in running} == {"running"}
    assert (client.admin.purge(MODEL), delayed.status().state) == (0, "delayed")
    assert client.admin.purge(MODEL, delayed=True) == 1
    for each in work[1:]:
        each.finish()
    assert client.queues() == []


def test_only_the_chosen_class_and_tenant_are_purged(client: Client, worker: ScriptedWorker) -> None:
    pairs = [(job_class, tenant) for job_class in ("standard", "batch") for tenant in ("t", "u")]
    jobs = {
        pair: [
            client.enqueue("x", model=MODEL, job_class=pair[0], tenant=pair[1], delay_s=delay_s)
            for delay_s in (0.0, 600.0)
        ]
        for pair in pairs
    }
    assert client.admin.purge(MODEL, job_class="batch", tenant="t", delayed=True) == 2
    assert client.admin.purge(MODEL, tenant="u") == 2
    states = {pair: [job.status().state for job in jobs[pair]] for pair in pairs}
    assert states == {
        ("standard", "t"): ["queued", "delayed"],
        ("standard", "u"): ["cancelled", "delayed"],
        ("batch", "t"): ["cancelled", "cancelled"],
        ("batch", "u"): ["cancelled", "delayed"],
    }
    with pytest.raises(UnknownModel):
        client.admin.purge("other")
    client.admin.purge(MODEL, delayed=True)


def test_a_parked_tenants_jobs_are_purged_too(client: Client, redis: Redis, worker: ScriptedWorker) -> None:
    job = client.enqueue("x", model=MODEL, tenant="t")
    client.admin.pause(MODEL, tenant="t")
    assert worker.start_all() == {}
    assert redis.smembers(worker.tag.parked) == {b"standard:t"}
    assert client.admin.purge(MODEL) == 1
    assert job.status().state == "cancelled"
    client.admin.resume(MODEL, tenant="t")


async def test_readers_and_webhooks_learn_why(redis_url: str, worker: ScriptedWorker) -> None:
    async with AsyncClient(redis_url) as client:
        job = await client.enqueue("x", model=MODEL, webhook=HOOK)
        assert await client.admin.purge(MODEL) == 1
        for read in (job.result(), anext(aiter(job.stream()))):
            with pytest.raises(JobCancelled, match="was cancelled: its queue was purged") as caught:
                await read
            assert caught.value.reason == "its queue was purged"
        status = await job.status()
        assert status.error is not None
        assert status.error.code == "purged"
    ((_, entry),) = worker.redis.xrange(worker.tag.outbox)
    assert entry[b"event"] == b"job.cancelled"


def test_the_command_asks_first_and_says_how_many(cli, client: Client, worker: ScriptedWorker) -> None:
    job = client.enqueue("x", model=MODEL)
    assert "cancel every waiting job of m, class batch?" in cli(
        "queues", "purge", MODEL, "--class", "batch", status=1
    )
    assert job.status().state == "queued"
    assert cli("queues", "purge", MODEL, "--yes") == "1 job cancelled\n"


def test_a_purge_of_delayed_jobs_misses_none_though_others_leave_meanwhile(
    client: Client, worker: ScriptedWorker, redis: Redis
) -> None:
    # More than Redis keeps in one piece, which it would return whole.
    jobs = client.enqueue_many(
        {"prompt": "x", "model": MODEL, "tenant": tenant, "delay_s": 600 + number}
        for number in range(150)
        for tenant in ("stays", "goes")
    )
    stays, goes = iter(jobs[::2]), jobs[1::2]
    perform = client._link().perform

    def while_others_leave(request: Request) -> Any:
        reply = perform(request)
        if isinstance(request, Calls):
            for _ in request.calls:
                next(stays).cancel()
        return reply

    steps = purge.purge_queue(client._operations, MODEL, Chosen(None, "goes"), delayed=True)
    assert drive(steps, while_others_leave) == len(goes)
    assert redis.zcard(worker.tag.delayed) == 0
