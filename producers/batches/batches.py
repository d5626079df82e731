"""The batches of all tenants, as a gateway offers them; `runner` runs them."""

from typing import Literal

from ...schemas.errors import InvalidJob
from ..async_client import AsyncClient
from ..files.store import FileStore
from ..openai.format import ENDPOINTS
from . import record
from .record import RequestBatch


class Batches:
    """Makes, finds, lists and cancels batches."""

    def __init__(self, client: AsyncClient, files: FileStore) -> None:
        self._files = files
        self._run, self._operations = client._run, client._operations

    async def create(
        self,
        tenant: str,
        endpoint: str,
        input_file_id: str,
        completion_window: str = "24h",
        *,
        metadata: dict[str, str] | None = None,
        models: tuple[str, ...] | None = None,
        output_kept_s: int | None = None,
    ) -> RequestBatch:
        """Make a batch of a tenant's file, which a runner soon takes up.

        Args:
            tenant: the tenant that owns the batch.
            endpoint: the endpoint of all its lines.
            input_file_id: the file with its lines.
            completion_window: how long it may take, as in `24h`.
            metadata: the tenant's own notes about it.
            models: the models that its lines may name; None for any.
            output_kept_s: how long the files of answers are kept; None for the usual time.

        Raises:
            InvalidJob: naming the argument that is wrong.
            StoredFileNotFound: the tenant has no such file.
        """
        if endpoint not in ENDPOINTS:
            raise InvalidJob("endpoint", f"must be one of {', '.join(ENDPOINTS)}")
        asked = record.ask(
            tenant,
            endpoint,
            input_file_id,
            completion_window,
            metadata=metadata,
            models=models,
            output_kept_s=output_kept_s,
        )
        file = await self._files.find(tenant, input_file_id)
        if file.purpose != "batch":
            raise InvalidJob("input_file_id", f"is a file for {file.purpose!r}; its purpose must be 'batch'")
        return await self._run(record.create(self._operations, asked))

    async def find(self, tenant: str, batch_id: str) -> RequestBatch:
        """A tenant's batch.

        Raises:
            BatchNotFound: the tenant has none with this id.
        """
        return await self._run(record.find(self._operations, tenant, batch_id))

    async def page(
        self,
        tenant: str,
        *,
        after: str | None = None,
        limit: int = 20,
        order: Literal["asc", "desc"] = "desc",
    ) -> tuple[list[RequestBatch], bool]:
        """Some of a tenant's batches, after that with the id `after`, and whether there are more."""
        steps = record.page(self._operations, tenant, after=after, limit=limit, order=order)
        return await self._run(steps)

    async def unfinished(self, *, limit: int = 50) -> list[RequestBatch]:
        """The unfinished batches of all tenants, for operators."""
        return await self._run(record.unfinished(self._operations, limit))

    async def cancel(self, tenant: str, batch_id: str) -> RequestBatch:
        """Ask for a tenant's batch to be cancelled; one that has ended doesn't change.

        Raises:
            BatchNotFound: the tenant has none with this id.
        """
        return await self._run(record.cancel(self._operations, tenant, batch_id))
