"""Files of tenants: uploaded and read in pieces, listed, deleted, and dropped when they expire.

A content is named in `expiry` before its first byte is written, and its record is saved after the last. So a
process that dies in between leaves a content that is deleted later, but never a record without its content.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass

from ...schemas.errors import FilesUnavailable, FileTooLarge, InvalidJob, LimitReached
from ...schemas.ids import new_id
from ...schemas.settings.files import FilesSettings
from ...schemas.tenants import TenantPolicy
from ..async_client import AsyncClient
from . import record
from .blobs import Blobs
from .listing import Order
from .record import KIND, PURPOSES, StoredFile, path_of

UPLOAD_S = 6 * 3600.0
"""An upload that takes longer may lose what it has written."""

SWEEP_FILES = 100
"""Number of contents deleted in one sweep."""

LEAST_KEPT_S, MOST_KEPT_S = 3600, 30 * 86_400


@dataclass(frozen=True, slots=True)
class Written:
    """A content in the store that has no record yet."""

    tenant: str
    file_id: str
    size: int


class FileStore:
    """The files of all tenants; safe to use from any number of processes."""

    def __init__(self, client: AsyncClient, settings: FilesSettings) -> None:
        self.blobs = Blobs(settings.store_url)
        self._settings = settings
        self._run, self._operations = client._run, client._operations

    async def create(
        self,
        tenant: str,
        filename: str,
        purpose: str,
        pieces: AsyncIterator[bytes],
        kept_s: int | None = None,
        file_id: str | None = None,
    ) -> StoredFile:
        """Write a file, and keep it; see `write` and `keep`."""
        written = await self.write(tenant, pieces, file_id=file_id)
        return await self.keep(written, filename, purpose, kept_s)

    async def write(
        self,
        tenant: str,
        pieces: AsyncIterator[bytes],
        *,
        file_id: str | None = None,
        most_bytes: int | None = None,
        policy: TenantPolicy | None = None,
    ) -> Written:
        """Write a content, to `keep` or `discard`.

        Args:
            tenant: the tenant that owns it.
            pieces: the content; it is never held whole.
            file_id: the file's id, if the caller chooses it; an earlier file with this id is replaced.
            most_bytes: its maximum size; by default no limit.
            policy: the limits of its tenant; by default none, as for what a batch has already computed.

        Raises:
            FileTooLarge: the content is larger than `most_bytes`.
            LimitReached: the tenant has no room for it; nothing of it is kept.
            FilesUnavailable: it can't be written.
        """
        file_id, size = file_id or new_id(KIND), 0
        left = await self._left(tenant, policy)

        async def counted() -> AsyncIterator[bytes]:
            nonlocal size
            async for piece in pieces:
                # What arrives is counted; the length that a client states proves nothing.
                size += len(piece)
                if most_bytes is not None and size > most_bytes:
                    raise FileTooLarge(most_bytes)
                if left is not None and size > left:
                    raise _no_room(tenant, policy)
                yield piece

        await self._run(record.announce(self._operations, tenant, file_id, UPLOAD_S))
        await self.blobs.write(path_of(file_id), counted())
        await self._run(record.count(self._operations, tenant, file_id, size))
        written = Written(tenant, file_id, size)
        try:
            # Counted before it is looked at again: of uploads at once, none is over the limit unseen.
            await self._left(tenant, policy, counted=True)
        except LimitReached:
            await self.discard(written)
            raise
        return written

    async def _left(self, tenant: str, policy: TenantPolicy | None, *, counted: bool = False) -> int | None:
        """The bytes that the tenant may still store; None without a limit.

        Raises:
            LimitReached: there is no room for one more file, or, if it is `counted`, for the last.
        """
        if policy is None or (policy.max_files is None and policy.max_stored_bytes is None):
            return None
        sizes = await self._run(record.used(self._operations, tenant))
        if policy.max_files is not None and len(sizes) + (not counted) > policy.max_files:
            raise LimitReached(tenant, "max_files", policy.max_files)
        if policy.max_stored_bytes is None:
            return None
        left = policy.max_stored_bytes - sum(sizes.values())
        if left < 0 or (left == 0 and not counted):
            raise _no_room(tenant, policy)
        return left

    async def keep(
        self, written: Written, filename: str, purpose: str, kept_s: int | None = None
    ) -> StoredFile:
        """Make what was written a file.

        Args:
            written: what `write` returned.
            filename: the name that its uploader gave it.
            purpose: one of `PURPOSES`.
            kept_s: when it expires; by default, and at most, after `file_retention_s`.

        Raises:
            InvalidJob: the purpose, or `kept_s`, isn't one.
        """
        if purpose not in PURPOSES:
            raise InvalidJob("purpose", f"must be one of {', '.join(PURPOSES)}")
        if kept_s is not None and not LEAST_KEPT_S <= kept_s <= MOST_KEPT_S:
            raise InvalidJob("expires_after", f"seconds must be between {LEAST_KEPT_S} and {MOST_KEPT_S}")
        kept = min(self._settings.file_retention_s, kept_s or self._settings.file_retention_s)
        file = StoredFile.made_now(written.file_id, written.tenant, written.size, filename, purpose, kept)
        await self._run(record.save(self._operations, file))
        return file

    async def discard(self, written: Written) -> None:
        """Delete what was written but shouldn't become a file.

        Raises:
            FilesUnavailable: it can't be deleted now; it will be later.
        """
        await self._delete_content(written.tenant, written.file_id)

    async def find(self, tenant: str, file_id: str) -> StoredFile:
        """A tenant's file.

        Raises:
            StoredFileNotFound: the tenant has none with this id.
        """
        return await self._run(record.find(self._operations, tenant, file_id))

    async def read(self, file: StoredFile, part: range | None = None) -> AsyncIterator[bytes]:
        """Yield a file's content, or these positions of it, piece by piece.

        Raises:
            FilesUnavailable: it can't be read, or isn't in this store.
        """
        try:
            async for piece in self.blobs.read(file.path, part):
                yield piece
        except FileNotFoundError:
            reason = f"the content of {file.id} isn't here; do all gateways share one files_url?"
            raise FilesUnavailable(reason) from None

    async def page(
        self,
        tenant: str,
        *,
        after: str | None = None,
        limit: int = 100,
        order: Order = "desc",
        purpose: str | None = None,
    ) -> tuple[list[StoredFile], bool]:
        """Some of a tenant's files, and whether there are more after the last of them."""
        steps = record.page(self._operations, tenant, after=after, limit=limit, order=order, purpose=purpose)
        return await self._run(steps)

    async def delete(self, tenant: str, file_id: str) -> None:
        """Delete a tenant's file.

        Raises:
            StoredFileNotFound: the tenant has none with this id.
            FilesUnavailable: its content can't be deleted now; it will be later.
        """
        file = await self.find(tenant, file_id)
        await self._run(record.forget(self._operations, tenant, file_id))
        await self._delete_content(tenant, file.id)

    async def sweep(self) -> int:
        """Delete the contents that have expired; return how many."""
        due = await self._run(record.due(self._operations, SWEEP_FILES))
        for tenant, file_id in due:
            await self._delete_content(tenant, file_id)
        return len(due)

    async def _delete_content(self, tenant: str, file_id: str) -> None:
        # In this order: a kill in between repeats the deletion, which does no harm.
        await self.blobs.delete([path_of(file_id)])
        await self._run(record.gone(self._operations, tenant, file_id))


def _no_room(tenant: str, policy: TenantPolicy | None) -> LimitReached:
    assert policy is not None
    assert policy.max_stored_bytes is not None
    return LimitReached(tenant, "max_stored_bytes", policy.max_stored_bytes)
