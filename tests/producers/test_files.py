import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from redis import Redis

from headrace import AsyncClient
from headrace.producers.files.record import safe_name
from headrace.producers.files.store import FileStore
from headrace.schemas.errors import FilesUnavailable, FileTooLarge, StoredFileNotFound
from headrace.schemas.keys import FileKeys
from headrace.schemas.settings.files import FilesSettings

KEYS = FileKeys()


async def pieces(*given: bytes) -> AsyncIterator[bytes]:
    for piece in given:
        yield piece


@pytest.fixture
async def store(redis_url: str, tmp_path: Path) -> AsyncIterator[FileStore]:
    async with AsyncClient(redis_url) as client:
        yield FileStore(client, FilesSettings(files_url=(tmp_path / "store").as_uri()))


async def content(store: FileStore, tenant: str, file_id: str) -> bytes:
    file = await store.find(tenant, file_id)
    return b"".join([piece async for piece in store.read(file)])


def kept(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in tmp_path.rglob("*") if path.is_file())


async def test_a_file_is_read_as_it_was_written(store: FileStore) -> None:
    file = await store.create("a", "../in.jsonl", "batch", pieces(*[b"x" * 1_000_000] * 12, b"y"))
    assert (file.bytes, file.filename, file.purpose) == (12_000_001, "in.jsonl", "batch")
    assert await content(store, "a", file.id) == b"x" * 12_000_000 + b"y"


async def test_another_tenants_file_is_not_there(store: FileStore, tmp_path: Path) -> None:
    file = await store.create("a", "in", "batch", pieces(b"x"))
    for call in (store.find, store.delete):
        with pytest.raises(StoredFileNotFound):
            await call("b", file.id)
    assert await store.page("b") == ([], False)
    assert kept(tmp_path) == [file.id]


@pytest.mark.parametrize("name", ["file-../../etc/passwd", "", "file-", "a:file-01jd0000000000000000000000"])
async def test_what_is_no_id_is_no_file(store: FileStore, name: str) -> None:
    with pytest.raises(StoredFileNotFound):
        await store.find("a", name)


async def test_nothing_is_kept_of_an_upload_that_is_too_large_or_breaks_off(
    store: FileStore, tmp_path: Path
) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"x" * 6_000_000
        raise ConnectionResetError

    with pytest.raises(FileTooLarge, match="more than 5 bytes"):
        await store.write("a", pieces(b"xxx", b"xxx"), most_bytes=5)
    with pytest.raises(ConnectionResetError):
        await store.create("a", "in", "batch", broken())
    assert kept(tmp_path) == []
    assert await store.page("a") == ([], False)


async def test_pages_go_through_all_files_in_either_order(store: FileStore) -> None:
    made = []
    for purpose in ("batch", "user_data", "batch", "batch"):
        made.append((await store.create("a", "in", purpose, pieces(b"x"))).id)
        await asyncio.sleep(0.002)  # ids sort by the millisecond
    first, more = await store.page("a", limit=3)
    assert ([file.id for file in first], more) == (made[:0:-1], True)
    last, more = await store.page("a", limit=3, after=first[-1].id)
    assert ([file.id for file in last], more) == ([made[0]], False)
    batch, more = await store.page("a", limit=3, order="asc", purpose="batch")
    assert ([file.id for file in batch], more) == ([made[0], *made[2:]], False)


async def test_a_deleted_file_is_gone_with_its_content(
    store: FileStore, tmp_path: Path, redis: Redis
) -> None:
    file = await store.create("a", "in", "batch", pieces(b"x"))
    await store.delete("a", file.id)
    assert kept(tmp_path) == []
    assert redis.keys() == []


async def test_the_sweep_deletes_what_has_expired_and_what_no_record_was_written_for(
    store: FileStore, tmp_path: Path, redis: Redis
) -> None:
    stays, expired, torn = [await store.create("a", "in", "batch", pieces(b"x")) for _ in range(3)]
    for file in (expired, torn):
        redis.delete(KEYS.record("a", file.id))
        redis.zadd(KEYS.expiry, {f"a:{file.id}": 1})
    assert await store.sweep() == 2
    assert kept(tmp_path) == [stays.id]
    assert await store.page("a") == ([stays], False)
    await store.delete("a", stays.id)


async def test_a_store_that_cant_be_written_says_so_without_its_path(redis_url: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    async with AsyncClient(redis_url) as client:
        store = FileStore(client, FilesSettings(files_url=(tmp_path / "file").as_uri()))
        with pytest.raises(FilesUnavailable) as refused:
            await store.create("a", "in", "batch", pieces(b"x"))
        assert str(tmp_path) not in str(refused.value)


async def test_a_content_that_is_in_another_store_is_not_taken_for_deleted(
    redis_url: str, store: FileStore, tmp_path: Path
) -> None:
    file = await store.create("a", "in", "batch", pieces(b"x"))
    async with AsyncClient(redis_url) as client:
        other = FileStore(client, FilesSettings(files_url=(tmp_path / "other").as_uri()))
        with pytest.raises(FilesUnavailable, match="share one files_url"):
            await content(other, "a", file.id)


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("/etc/passwd", "passwd"),
        ("C:\\temp\\in.jsonl", "in.jsonl"),
        ("a\r\nx-evil: 1\x1b[31m\ud800", "ax-evil: 1[31m"),
        ("..", "file"),
        ("", "file"),
        ("x" * 300, "x" * 255),
    ],
    ids=["path", "windows", "control", "dots", "empty", "long"],
)
def test_a_filename_is_made_harmless(given: str, shown: str) -> None:
    assert safe_name(given) == shown
