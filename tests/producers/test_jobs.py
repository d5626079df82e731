"""The list of jobs, and jobs that are retried."""

import json

import pytest
from redis import Redis

from headrace import AsyncClient, BadSetting, Client, JobHandle, JobNotFound, UnknownModel
from headrace.producers.operate import jobs as operation
from headrace.schemas import keys
from headrace.schemas.events import JobError, JobState
from headrace.schemas.ids import new_job_id
from headrace.schemas.keys import Tag
from headrace.schemas.scripts import ClaimRequest, claim, recover, run
from headrace.schemas.settings.queue import QueueSettings

from .conftest import MODEL, ScriptedWorker

pytestmark = pytest.mark.leaves_jobs

TAG = Tag(MODEL)


@pytest.fixture
def failed(client: Client, worker: ScriptedWorker) -> JobHandle:
    fields = {"metadata": {"run": "7"}, "delay_s": 0.001, "idempotency_key": "k", "seed": 3}
    job = client.enqueue("x", model=MODEL, tenant="t", **fields)
    while job.status().state == "delayed":
        worker.upkeep()
    worker.start().finish(JobState.FAILED, error=JobError(code="context_length", message="too long"))
    return job


def ids(client: Client, **filters: object) -> list[str]:
    page = client.admin.jobs(**filters)
    assert page.cursor is None
    return [job.job_id for job in page.jobs]


def test_jobs_are_listed_the_newest_first_by_what_is_asked_for(
    client: Client, redis: Redis, worker: ScriptedWorker, failed: JobHandle
) -> None:
    redis.hset(keys.models(), "n", '{"id": "n"}')
    running = client.enqueue("x", model=MODEL, metadata={"run": "7", "user": "ü"})
    worker.start().write(2)
    queued = client.enqueue("x", model=MODEL, job_class="batch", metadata={"run": "8"})
    delayed = client.enqueue("x", model="n", tenant="t", delay_s=600)
    for age_s, job in enumerate((delayed, queued, running, failed)):
        redis.zincrby(Tag("n" if job is delayed else MODEL).jobs, -1000 * (age_s + 1), job.id)
    everything = [delayed.id, queued.id, running.id, failed.id]
    assert ids(client) == everything
    assert ids(client, model=MODEL) == everything[1:]
    assert ids(client, tenant="t") == [delayed.id, failed.id]
    assert ids(client, tenant="t", state="failed") == [failed.id]
    assert ids(client, job_class="batch") == [queued.id]
    assert ids(client, state=JobState.RUNNING) == [running.id]
    assert ids(client, metadata={"run": "7"}) == [running.id, failed.id]
    assert ids(client, metadata={"run": "7", "user": "ü"}, state="running") == [running.id]
    assert ids(client, min_age_s=2) == everything[1:]
    assert ids(client, max_age_s=0) == []
    assert ids(client, max_age_s=600) == everything
    (listed,) = client.admin.jobs(state="running").jobs
    assert listed == running.status()
    (listed,) = client.admin.jobs(state="failed").jobs
    assert listed == failed.status()


@pytest.mark.parametrize("partitions", [1, 3])
def test_pages_hold_every_job_once_in_order_whatever_comes_meanwhile(
    redis_url: str, worker: ScriptedWorker, monkeypatch: pytest.MonkeyPatch, partitions: int
) -> None:
    monkeypatch.setattr(operation, "ROUND", 24)
    with Client(redis_url, partitions=partitions) as client:
        made = [client.enqueue("x", model=MODEL, metadata={"even": str(n % 2)}).id for n in range(60)]
        for number, job_id in enumerate(made):  # the first 40 in one millisecond
            worker.redis.zadd(keys.tag_of(job_id).jobs, {job_id: max(40, number)})
        found, cursor, pages = [], None, 0
        while True:
            page = client.admin.jobs(metadata={"even": "1"}, limit=7, cursor=cursor)
            found, cursor, pages = found + page.jobs, page.cursor, pages + 1
            client.enqueue("x", model=MODEL, metadata={"even": "1"})
            if cursor is None:
                break
        assert sorted(job.job_id for job in found) == sorted(made[1::2])
        assert [job.job_id for job in found[:9]] == made[59:42:-2]
        assert pages > 4


def test_a_call_looks_at_a_bounded_number_of_jobs(
    client: Client, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operation, "ROUND", 8)
    monkeypatch.setattr(operation, "MOST_LOOKS", 16)
    wanted = client.enqueue("x", model=MODEL, metadata={"run": "7"}).id
    others = [job.id for job in client.enqueue_many({"prompt": "x", "model": MODEL} for _ in range(40))]
    redis.zadd(TAG.jobs, {job_id: number for number, job_id in enumerate([wanted, *others])})
    pages = [client.admin.jobs(metadata={"run": "7"}, limit=5)]
    while pages[-1].cursor:
        pages.append(client.admin.jobs(metadata={"run": "7"}, limit=5, cursor=pages[-1].cursor))
    assert [[job.job_id for job in page.jobs] for page in pages] == [[], [], [wanted]]


def test_jobs_that_are_gone_or_damaged_are_passed_over_and_upkeep_forgets_them(
    client: Client, redis: Redis, worker: ScriptedWorker
) -> None:
    handles = client.enqueue_many([{"prompt": "x", "model": MODEL} for _ in range(450)])
    gone, damaged = [*handles[:250], *handles[300:310]], handles[400]
    redis.delete(*(worker.tag.job(job.id) for job in gone))
    redis.hset(worker.tag.job(damaged.id), "state", "elsewhere")
    left = {job.id for job in handles} - {job.id for job in gone}
    assert {job.job_id for job in client.admin.jobs(limit=1000).jobs} == left - {damaged.id}
    for _ in range(3):
        worker.upkeep()
    assert {job_id.decode() for job_id in redis.zrange(worker.tag.jobs, 0, -1)} == left


def test_wrong_filters_are_refused_by_name(client: Client) -> None:
    for wrong, message in (
        ({"state": "lost"}, "state = 'lost': must be one of delayed, queued"),
        ({"job_class": "urgent"}, "job_class = 'urgent'"),
        ({"tenant": "a b"}, "tenant = 'a b'"),
        ({"limit": 0}, "limit = 0: must be a number from 1 to 10,000"),
        ({"cursor": "7"}, "cursor = '7': must be the cursor of a page"),
        ({"max_age_s": -1}, "max_age_s = -1"),
        ({"model": ""}, "model = ''"),
    ):
        with pytest.raises(BadSetting, match=message):
            client.admin.jobs(**wrong)
    with pytest.raises(UnknownModel):
        client.admin.jobs("other")


def test_a_failed_job_is_retried_as_another_job_once(
    client: Client, worker: ScriptedWorker, failed: JobHandle
) -> None:
    new_id = client.admin.retry(failed.id)
    assert client.admin.retry(failed.id) == new_id != failed.id
    status = client.job(new_id).status()
    assert (status.state, status.tenant, status.retry_of) == ("queued", "t", failed.id)
    assert status.metadata == {"run": "7"}
    running = worker.start()
    assert b'"seed":3' in running.claimed.spec
    running.finish()
    assert client.job(new_id).result().finish_reason == "length"
    assert failed.status().state == "failed"


def test_only_what_has_ended_otherwise_than_well_is_retried(
    client: Client, redis: Redis, worker: ScriptedWorker
) -> None:
    job = client.enqueue("x", model=MODEL, max_attempts=1)
    with pytest.raises(BadSetting, match="is queued; only failed, cancelled and expired"):
        client.admin.retry(job.id)
    run(redis, claim(worker.tag, ClaimRequest("dies", "n", 60_000, 10**6, 10)))
    run(redis, recover(worker.tag, "dies", QueueSettings(), blamed=True))
    with pytest.raises(BadSetting, match=f"is a dead letter; requeue it: headrace dead requeue {job.id}"):
        client.admin.retry(job.id)
    cancelled = client.enqueue("x", model=MODEL)
    cancelled.cancel()
    assert client.job(client.admin.retry(cancelled.id)).status().retry_of == cancelled.id
    with pytest.raises(JobNotFound):
        client.admin.retry(new_job_id(MODEL))


async def test_the_async_client_lists_and_retries_too(redis_url: str, failed: JobHandle) -> None:
    async with AsyncClient(redis_url) as client:
        (listed,) = (await client.admin.jobs(state="failed")).jobs
        new_id = await client.admin.retry(listed.job_id)
        assert (await client.job(new_id).status()).retry_of == failed.id


def test_commands_list_and_retry(cli, client: Client, failed: JobHandle) -> None:
    (listed,) = json.loads(cli("jobs", "list", "--state", "failed", "--tag", "run=7", "--json"))
    assert (listed["job_id"], listed["error"]["code"]) == (failed.id, "context_length")
    new_id = cli("retry", failed.id).strip()
    lines = cli("jobs", "list", "--model", MODEL, "--limit", "2").splitlines()
    assert lines[0] == "ID\tSTATE\tMODEL\tCLASS\tTENANT\tTOKENS\tAGE\tERROR"
    assert [line.split("\t")[:2] for line in lines[1:]] == [[new_id, "queued"], [failed.id, "failed"]]
    assert "retry of     " + failed.id in cli("status", new_id)
    assert "'run' is not KEY=VALUE" in cli("jobs", "list", "--tag", "run", status=2)
