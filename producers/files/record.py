"""The records of files: what is known about each, which tenant owns it, and when it expires."""

import time
import unicodedata
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from ...schemas.errors import StoredFileNotFound
from ...schemas.ids import is_id
from ...schemas.keys import FileKeys
from ..operations import Operations
from ..steps import Read, Steps, Write
from .listing import Order, page_of

KIND = "file-"
LONGEST_NAME = 255

PURPOSES = ("batch", "batch_output", "user_data")


class StoredFile(BaseModel):
    """One file.

    Attributes:
        id: `file-<ULID>`.
        tenant: the tenant that owns it.
        bytes: its size.
        created_at: seconds since the epoch, like `expires_at`.
        filename: the name that it was uploaded under, without folders and control characters.
        purpose: what it is for: `batch`, `batch_output` or `user_data`.
        expires_at: when it is deleted.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    id: str
    tenant: str
    bytes: int
    created_at: int
    filename: str
    purpose: str
    expires_at: int

    @classmethod
    def made_now(
        cls, file_id: str, tenant: str, size: int, filename: str, purpose: str, kept_s: float
    ) -> Self:
        """The record of a file that was just written."""
        now = int(time.time())
        return cls(
            id=file_id,
            tenant=tenant,
            bytes=size,
            created_at=now,
            filename=safe_name(filename),
            purpose=purpose,
            expires_at=now + int(kept_s),
        )

    @property
    def path(self) -> str:
        """Where its content is in the store."""
        return path_of(self.id)

    def body(self) -> dict[str, Any]:
        """The file as OpenAI's API shows it."""
        shown = self.model_dump(exclude={"tenant"})
        return {**shown, "object": "file", "status": "processed"}


def path_of(file_id: str) -> str:
    """Where a file's content is in the store."""
    return f"files/{file_id}"


def safe_name(name: str) -> str:
    """The last part of a user's path, without characters that could confuse a terminal or a header."""
    last = name.replace("\\", "/").rpartition("/")[2]
    kept = "".join(each for each in last if unicodedata.category(each)[0] != "C").strip()
    return kept[:LONGEST_NAME] if kept.strip(".") else "file"


def keys_of(operations: Operations) -> FileKeys:
    """The names of the records' keys."""
    return FileKeys(operations.settings.namespace)


def announce(operations: Operations, tenant: str, file_id: str, seconds: float) -> Steps[None]:
    """Note that a content is about to be written, so that it is deleted if its record never is."""
    due_ms = int(1000 * (time.time() + seconds))
    yield from operations.send(Write((("ZADD", keys_of(operations).expiry, due_ms, f"{tenant}:{file_id}"),)))


def used(operations: Operations, tenant: str) -> Steps[dict[str, int]]:
    """The sizes of a tenant's stored contents, by file id."""
    (sizes,) = yield from operations.send(Read((("HGETALL", keys_of(operations).usage(tenant)),)))
    return {name.decode(): int(size) for name, size in sizes.items()}


def count(operations: Operations, tenant: str, file_id: str, size: int) -> Steps[None]:
    """Count a content that was written, until it is gone."""
    command = ("HSET", keys_of(operations).usage(tenant), file_id, size)
    yield from operations.send(Write((command,)))


def save(operations: Operations, file: StoredFile) -> Steps[None]:
    """Keep the record until the file expires."""
    keys = keys_of(operations)
    left_ms = max(1, int(1000 * (file.expires_at - time.time())))
    yield from operations.send(
        Write(
            (
                # The expiry first: there is never a record whose content nobody would delete.
                ("ZADD", keys.expiry, 1000 * file.expires_at, f"{file.tenant}:{file.id}"),
                ("ZADD", keys.of(file.tenant), 0, file.id),
                ("SET", keys.record(file.tenant, file.id), file.model_dump_json(), "PX", left_ms),
            )
        )
    )


def find(operations: Operations, tenant: str, file_id: str) -> Steps[StoredFile]:
    """A tenant's file.

    Raises:
        StoredFileNotFound: the tenant has none with this id.
    """
    if not is_id(KIND, file_id):
        raise StoredFileNotFound(str(file_id)[:64])
    (found,) = yield from operations.send(Read((("GET", keys_of(operations).record(tenant, file_id)),)))
    file = _parsed(found)
    if file is None:
        raise StoredFileNotFound(file_id)
    return file


def page(
    operations: Operations, tenant: str, *, after: str | None, limit: int, order: Order, purpose: str | None
) -> Steps[tuple[list[StoredFile], bool]]:
    """Some of a tenant's files, after that with the id `after`, and whether there are more."""
    keys = keys_of(operations)

    def read(ids: list[str]) -> Steps[list[StoredFile]]:
        texts = yield from operations.send(Read([("GET", keys.record(tenant, each)) for each in ids]))
        found = [file for text in texts if (file := _parsed(text)) is not None]
        return [file for file in found if purpose in {None, file.purpose}]

    return (yield from page_of(operations, keys.of(tenant), read, after=after, limit=limit, order=order))


def forget(operations: Operations, tenant: str, file_id: str) -> Steps[None]:
    """Delete a record; the content is due to be deleted from now on."""
    keys, now_ms = keys_of(operations), int(1000 * time.time())
    yield from operations.send(
        Write(
            (
                # Due before it is forgotten: a kill at any point leaves a content that the next sweep
                # deletes.
                ("ZADD", keys.expiry, now_ms, f"{tenant}:{file_id}"),
                ("DEL", keys.record(tenant, file_id)),
                ("ZREM", keys.of(tenant), file_id),
            )
        )
    )


def due(operations: Operations, most: int) -> Steps[list[tuple[str, str]]]:
    """Tenants and ids of files whose content is to be deleted now."""
    now_ms = int(1000 * time.time())
    command = ("ZRANGEBYSCORE", keys_of(operations).expiry, "-inf", now_ms, "LIMIT", 0, most)
    (members,) = yield from operations.send(Read((command,)))
    # No tenant's name has a colon.
    parts = [member.decode().partition(":") for member in members]
    return [(tenant, file_id) for tenant, _, file_id in parts]


def gone(operations: Operations, tenant: str, file_id: str) -> Steps[None]:
    """Note that a file's content has been deleted."""
    keys = keys_of(operations)
    commands = (
        ("ZREM", keys.of(tenant), file_id),
        ("HDEL", keys.usage(tenant), file_id),
        ("ZREM", keys.expiry, f"{tenant}:{file_id}"),  # last: whoever dies before it is followed by a sweep
    )
    yield from operations.send(Write(commands))


def _parsed(text: bytes | None) -> StoredFile | None:
    """The record; None if there is none, or it can't be read."""
    try:
        return StoredFile.model_validate_json(text) if text else None
    except ValidationError:
        return None
