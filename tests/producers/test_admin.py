"""`client.admin`: what an operator sees and changes, typed, from a program."""

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis

from headrace import (
    Admin,
    AsyncAdmin,
    AsyncClient,
    BadPolicy,
    BadSetting,
    Client,
    DeadLetterDetails,
    DeliveryNotFound,
    DeliveryState,
    Finding,
    JobHandle,
    JobNotFound,
    RecordDamaged,
    StoredResponse,
    TenantPolicy,
    Verdict,
    WorkerNotFound,
)
from headrace.schemas import ids, keys
from headrace.schemas.keys import Tag
from headrace.schemas.scripts import ClaimRequest, accept_delivery, claim, heartbeat, recover, run
from headrace.schemas.settings.queue import QueueSettings

from .conftest import MODEL, ScriptedWorker

pytestmark = pytest.mark.leaves_jobs

ROOT = Path(__file__).parents[2]
TAG = Tag(MODEL)


@pytest.fixture
def dead_job(client: Client, redis: Redis) -> JobHandle:
    """A job over which its worker died, after two tokens."""
    job = client.enqueue("tell me", model=MODEL, max_attempts=1)
    run(redis, claim(TAG, ClaimRequest("worker-1", "n", 60_000, 10**6, 10)))
    run(redis, recover(TAG, "worker-1", QueueSettings(), blamed=True, how="killed by SIGSEGV"))
    return job


@pytest.fixture
def delivery_id(redis: Redis, worker: ScriptedWorker) -> str:
    """A webhook delivery that waits."""
    entry, job_id = redis.xadd(TAG.outbox, {"job": "x"}).decode(), ids.new_job_id(MODEL)
    fields = {"job_id": job_id, "event": "job.succeeded", "tenant": "shop", "url": "https://example.com/h"}
    assert run(redis, accept_delivery(TAG, entry, **fields, body="{}", secret="", retention_s=600))
    return f"msg_{job_id.partition('.')[0]}_{entry}"


def test_a_dead_letter_is_read_and_queued_again(client: Client, dead_job: JobHandle) -> None:
    (letter,) = client.admin.dead_letters(MODEL)
    assert (letter.job_id, letter.attempts, letter.has_job) == (dead_job.id, 1, True)
    assert client.admin.dead_letters("other") == []
    for name in (letter.entry, dead_job.id):
        found = client.admin.dead_letter(name)
        assert isinstance(found, DeadLetterDetails)
        assert found.job is not None
        assert (found.entry, found.job["prompt"]) == (letter.entry, "tell me")
    assert client.admin.requeue_dead_letter(dead_job.id) == dead_job.id
    assert dead_job.status().state == "queued"
    with pytest.raises(JobNotFound):
        client.admin.requeue_dead_letter(letter)


def test_a_dead_letter_is_dropped_by_what_was_read(client: Client, dead_job: JobHandle) -> None:
    (letter,) = client.admin.dead_letters()
    assert client.admin.drop_dead_letter(letter) == dead_job.id
    with pytest.raises(JobNotFound):
        dead_job.status()
    with pytest.raises(JobNotFound):
        client.admin.drop_dead_letter(letter.entry)


def test_a_dead_letter_with_a_damaged_result_is_shown(
    client: Client, dead_job: JobHandle, redis: Redis
) -> None:
    redis.hset(TAG.job(dead_job.id), "result", "{")
    assert client.admin.dead_letter(dead_job.id).text == ""


def test_a_tenants_policy_is_set_read_and_dropped(client: Client) -> None:
    assert client.admin.set_tenant("acme", weight=2, max_running=3) == TenantPolicy(weight=2, max_running=3)
    client.admin.set_tenant("*", max_running=1, weight=None)
    assert client.admin.tenants() == {
        "*": TenantPolicy(max_running=1),
        "acme": TenantPolicy(weight=2, max_running=3),
    }
    client.admin.drop_tenant("acme")
    assert client.admin.tenant("acme") == TenantPolicy(max_running=1)
    with pytest.raises(BadPolicy, match="weight = 0"):
        client.admin.set_tenant("acme", weight=0)
    with pytest.raises(BadPolicy, match="wieght = 2"):
        client.admin.set_tenant("acme", wieght=2)  # type: ignore[call-arg]


def test_a_tenants_secret_is_replaced_by_another(client: Client) -> None:
    old, new = client.admin.add_secret("shop"), client.admin.add_secret("shop", "a" * 20)
    assert new.secret.get_secret_value() == "a" * 20
    assert {secret.id for secret in client.admin.secrets("shop")} == {old.id, new.id}
    assert client.admin.drop_secret("shop", old.id) == 1
    with pytest.raises(BadPolicy, match="no secret"):
        client.admin.drop_secret("shop", old.id)


def test_a_delivery_is_read_and_sent_again(client: Client, delivery_id: str) -> None:
    (listed,) = client.admin.deliveries(state="pending")
    found = client.admin.delivery(delivery_id)
    assert listed.id == found.id == delivery_id
    assert (found.state, found.next_ms is None) == (DeliveryState.PENDING, False)
    client.admin.replay_delivery(delivery_id)
    assert client.admin.deliveries(state=DeliveryState.FAILED) == []
    with pytest.raises(BadSetting, match="state = 'lost': must be one of pending, delivered"):
        client.admin.deliveries(state="lost")
    with pytest.raises(DeliveryNotFound):
        client.admin.replay_delivery("msg_none")


def test_a_worker_is_drained_and_what_there_is_is_listed(
    client: Client, redis: Redis, worker: ScriptedWorker
) -> None:
    run(redis, heartbeat(TAG, "w1", {"model": MODEL, "running": 2}))
    client.enqueue("x", model=MODEL)
    assert [worker.id for worker in client.admin.workers()] == ["w1"]
    assert [queue.depth for queue in client.admin.queues()] == [1]
    assert [model.id for model in client.admin.models()] == [MODEL]
    assert client.admin.drain_worker("w", finish_s=1.5).running == 2
    assert redis.hget(TAG.worker("w1"), "drain") == b"1500"
    with pytest.raises(WorkerNotFound):
        client.admin.drain_worker("nobody")


def test_the_doctors_findings_are_typed(client: Client, worker: ScriptedWorker) -> None:
    findings = {finding.check: finding for finding in client.admin.doctor(machine=False)}
    assert findings["eviction"] == Finding(check="eviction", verdict=Verdict.OK, found="noeviction")
    assert f"{MODEL}: workers" in findings
    assert "python" not in findings


def test_a_redis_that_is_away_is_a_finding_and_no_error() -> None:
    with Client("redis://127.0.0.1:1/0") as client:
        (finding,) = client.admin.doctor(machine=False)
    assert (finding.check, finding.verdict) == ("redis", Verdict.FAIL)


def test_the_async_surface_is_the_same_one_awaited() -> None:
    def public(kind: type) -> dict[str, inspect.Signature]:
        members = inspect.getmembers(kind, inspect.isfunction)
        return {name: inspect.signature(each) for name, each in members if not name.startswith("_")}

    assert public(AsyncAdmin) == public(Admin)
    assert all(inspect.iscoroutinefunction(getattr(AsyncAdmin, name)) for name in public(Admin))


async def test_the_async_client_has_it_too(
    redis_url: str, dead_job: JobHandle, delivery_id: str, redis: Redis
) -> None:
    run(redis, heartbeat(TAG, "w1", {"model": MODEL}))
    async with AsyncClient(redis_url) as client:
        (letter,) = await client.admin.dead_letters()
        assert await client.admin.requeue_dead_letter(letter, from_scratch=True) == dead_job.id
        assert await client.admin.set_tenant("acme", weight=2) == await client.admin.tenant("acme")
        added = await client.admin.add_secret("acme")
        assert await client.admin.drop_secret("acme", added.id) == 0
        await client.admin.replay_delivery((await client.admin.deliveries())[0].id)
        assert (await client.admin.drain_worker("w1")).id == "w1"
        findings = await client.admin.doctor(machine=False)
    assert Finding(check="eviction", verdict=Verdict.OK, found="noeviction") in findings


def private_names(path: Path) -> Iterator[str]:
    """What it takes of others that is theirs alone."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
            of_its_own = isinstance(node.value, ast.Name) and node.value.id in {"self", "cls"}
            if not of_its_own:
                yield f"{path.name}: {ast.unparse(node)}"


@pytest.mark.parametrize("folder", ["producers/cli", "src/headrace/cli"])
def test_commands_use_nothing_private(folder: str) -> None:
    used = [name for path in sorted((ROOT / folder).glob("*.py")) for name in private_names(path)]
    assert used == []


def test_a_stored_response_is_kept_for_its_time_or_until_it_is_dropped(client: Client, redis: Redis) -> None:
    job_id = ids.new_job_id(MODEL)
    stored = StoredResponse(tenant="t", echo={"model": MODEL}, items=[{"role": "user", "content": "é"}])
    client.admin.keep_response(job_id, stored, ttl_s=60)
    assert client.admin.response(job_id) == stored
    ended = stored.model_copy(update={"answer": {"id": job_id}})
    client.admin.keep_response(job_id, ended, ttl_s=60)
    assert client.admin.response(job_id) == ended
    key = keys.tag_of(job_id).response(job_id)
    assert 0 < redis.pttl(key) <= 60_000
    assert client.admin.drop_response(job_id)
    client.admin.keep_response(job_id, ended, ttl_s=60)
    assert client.admin.response(job_id) is None
    assert not client.admin.drop_response(job_id)
    redis.set(key, "{}", px=1000)
    with pytest.raises(RecordDamaged):
        client.admin.response(job_id)
    with pytest.raises(JobNotFound):
        client.admin.response("../x")
