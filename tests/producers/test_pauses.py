"""Pausing queues: what an operator does and sees, and what is told to who waits."""

import json

import pytest
from redis import Redis

from headrace import AsyncClient, BadSetting, Client, PausedQueue, UnknownModel
from headrace.producers.waiting import WaitReason, explain
from headrace.schemas.scripts import heartbeat, run

from .conftest import MODEL, ScriptedWorker

pytestmark = pytest.mark.leaves_jobs


def test_pauses_are_listed_with_what_they_hold_and_ended_one_by_one(client: Client) -> None:
    client.enqueue("x", model=MODEL, tenant="t", job_class="batch")
    client.enqueue("x", model=MODEL, tenant="u")
    client.admin.pause(MODEL, job_class="batch")
    client.admin.pause(MODEL, tenant="t")
    made = client.admin.pauses()
    client.admin.pause(MODEL, tenant="t")
    assert client.admin.pauses() == made, "a second time changes nothing, not even since when"
    assert [(each.model, each.job_class, each.tenant) for each in made] == [
        (MODEL, None, "t"),
        (MODEL, "batch", None),
    ]
    assert [(queue.tenant, queue.paused) for queue in client.admin.queues()] == [("u", False), ("t", True)]
    assert client.admin.resume(MODEL, tenant="t")
    assert not client.admin.resume(MODEL, tenant="t")
    assert client.admin.resume(MODEL, job_class="batch")
    assert client.admin.pauses() == []


def test_every_partition_is_paused_and_a_forgotten_models_pauses_with_it(
    redis_url: str, worker: ScriptedWorker
) -> None:
    with Client(redis_url, partitions=2) as client:
        for _ in range(8):
            client.enqueue("x", model=MODEL).cancel()
        client.admin.pause(MODEL)
        assert all(worker.redis.exists(f"hr:{{{MODEL}:{partition}}}:paused") for partition in range(2))
        assert len(client.admin.pauses()) == 1
        client.admin.forget_model(MODEL)
        assert not worker.redis.keys("*:paused")


def test_wrong_names_are_refused_before_anything_is_paused(client: Client) -> None:
    with pytest.raises(UnknownModel):
        client.admin.pause("other")
    with pytest.raises(BadSetting, match="job_class = 'urgent': must be one of interactive, standard, batch"):
        client.admin.pause(MODEL, job_class="urgent")
    with pytest.raises(BadSetting, match=r"tenant = '\*': must be 1 to 64"):
        client.admin.resume(MODEL, tenant="*")
    with pytest.raises(BadSetting, match="model = ''"):
        client.admin.pause("")


async def test_the_async_client_pauses_too(redis_url: str, worker: ScriptedWorker) -> None:
    async with AsyncClient(redis_url) as client:
        await client.admin.pause(MODEL)
        (found,) = await client.admin.pauses()
        assert isinstance(found, PausedQueue)
        assert await client.admin.resume(MODEL)


def test_who_waits_in_a_paused_queue_is_told_how_it_is_resumed(
    client: Client, redis: Redis, worker: ScriptedWorker
) -> None:
    run(redis, heartbeat(worker.tag, "w", {"pages_free": 1}))
    begun = client.enqueue("x", model=MODEL, tenant="t")
    worker.give_back(worker.start())
    waiting = client.enqueue("x", model=MODEL, tenant="t")
    client.admin.pause(MODEL, job_class="standard", tenant="t")

    def why(job_id: str) -> tuple[WaitReason, str]:
        found = client._run(explain(client._operations, job_id))
        return found.reason, found.text

    text = f"it was paused by an operator (headrace queues resume {MODEL} --class standard --tenant t)"
    assert why(waiting.id) == (WaitReason.PAUSED, text)
    assert why(begun.id)[0] is WaitReason.QUEUE, "it has begun, and goes on"
    assert any("was paused by an operator" in each.found for each in client.admin.doctor(machine=False))


def test_commands_pause_list_and_resume(cli, worker: ScriptedWorker) -> None:
    assert cli("queues", "pause", MODEL, "--class", "batch") == f"{MODEL}, class batch is paused\n"
    (listed,) = json.loads(cli("queues", "list", "--paused", "--json"))
    assert (listed["model"], listed["job_class"], listed["tenant"]) == (MODEL, "batch", None)
    assert cli("queues", "list", "--paused").startswith(f"MODEL\tCLASS\tTENANT\tSINCE\n{MODEL}\tbatch\tall\t")
    assert "was not paused" in cli("queues", "resume", MODEL, status=1)
    assert cli("queues", "resume", MODEL, "--class", "batch") == f"{MODEL}, class batch is resumed\n"
    assert cli("queues", "list") == cli("queues") == "MODEL\tCLASS\tTENANT\tWAITING\tBYTES\tRUNNING\tPAUSED\n"
