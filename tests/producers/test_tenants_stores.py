"""What each tenant may store: files, their bytes, and batches that have not ended."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path

import pytest
from redis import Redis

from headrace import AsyncClient
from headrace.producers.batches import record
from headrace.producers.batches.batches import Batches
from headrace.producers.files.store import FileStore
from headrace.schemas.errors import LimitReached
from headrace.schemas.keys import BatchKeys
from headrace.schemas.settings.files import FilesSettings

from .test_batches import URL


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(redis_url) as client:
        yield client
        for tenant in await client.admin.tenants():
            await client.admin.drop_tenant(tenant)


@pytest.fixture
async def files(client: AsyncClient, tmp_path: Path) -> AsyncIterator[FileStore]:
    store = FileStore(client, FilesSettings(files_url=tmp_path.as_uri()))
    yield store
    for tenant in ("t", "u"):
        for file in (await store.page(tenant))[0]:
            await store.delete(tenant, file.id)


Upload = Callable[..., Awaitable[str]]


async def upload_as(client: AsyncClient, files: FileStore, tenant: str, size: int = 1) -> str:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(size):
            yield b"x"
            await asyncio.sleep(0)

    policy = await client.admin.tenant(tenant)
    written = await files.write(tenant, pieces(), policy=policy)
    return (await files.keep(written, "in.jsonl", "batch")).id


@pytest.fixture
def upload(client: AsyncClient, files: FileStore) -> Upload:
    """Uploads a file of a tenant, within its limits."""
    return partial(upload_as, client, files)


async def test_a_tenant_stores_as_many_files_as_it_may_and_others_as_before(
    client: AsyncClient, files: FileStore, upload: Upload
) -> None:
    await client.admin.set_tenant("t", max_files=2)
    first, _ = await upload("t"), await upload("t")
    with pytest.raises(LimitReached, match=r"tenant t may have 2 files \(max_files\): delete some"):
        await upload("t")
    for _ in range(3):
        await upload("u")
    await files.delete("t", first)
    await upload("t")


async def test_no_more_bytes_are_stored_than_allowed_though_uploads_come_at_once(
    client: AsyncClient, files: FileStore, upload: Upload
) -> None:
    await client.admin.set_tenant("t", max_stored_bytes=10)
    outcomes = await asyncio.gather(*(upload("t", 4) for _ in range(5)), return_exceptions=True)
    assert {type(each) for each in outcomes} <= {str, LimitReached}
    stored = (await files.page("t"))[0]
    assert sum(file.bytes for file in stored) <= 10
    for _ in range(2 - len(stored)):  # each of two may have seen the other
        await upload("t", 4)
    with pytest.raises(LimitReached, match="max_stored_bytes"):
        await upload("t", 4)
    await upload("t", 2)


async def test_a_tenant_has_as_many_open_batches_as_it_may_and_others_as_before(
    client: AsyncClient, files: FileStore, upload: Upload, redis: Redis
) -> None:
    await client.admin.set_tenant("t", max_open_batches=2)
    batches = Batches(client, files)

    async def make(tenant: str) -> record.RequestBatch:
        return await batches.create(record.batch_spec(tenant, URL, await upload(tenant)))

    made = [await make("t"), await make("t")]
    with pytest.raises(
        LimitReached, match=r"2 batches that have not ended \(max_open_batches\): wait for one"
    ):
        await make("t")
    made += [await make("u") for _ in range(3)]
    # One ends, though its runner dies before it says so.
    keys = BatchKeys()
    redis.hset(keys.batch("t", made[0].id), "status", "completed")
    redis.zadd(keys.open("t"), {made[0].id: 0})
    made.append(await make("t"))
    await client._run(record.close(client._operations, "t", made[1].id))
    made.append(await make("t"))
    with pytest.raises(LimitReached):
        await make("t")
    for batch in made:
        tenant = batch.asked.tenant
        redis.delete(keys.batch(tenant, batch.id), keys.open(tenant), keys.of(tenant))
        redis.zrem(keys.active, f"{tenant}:{batch.id}")
