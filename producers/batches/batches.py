"""The batches of all tenants, as a gateway offers them; `runner` runs them."""

from ...schemas.errors import InvalidJob
from ..async_client import AsyncClient
from ..files.listing import Order
from ..files.store import FileStore
from . import record
from .record import BatchSpec, RequestBatch


class Batches:
    """Makes, finds, lists and cancels batches."""

    def __init__(self, client: AsyncClient, files: FileStore) -> None:
        self._files = files
        self._run, self._operations = client._run, client._operations
        self._admin = client.admin

    async def create(self, wanted: BatchSpec) -> RequestBatch:
        """Make a batch of a tenant's file, which a runner soon takes up.

        Raises:
            InvalidJob: the file is not for batches.
            StoredFileNotFound: the tenant has no such file.
            LimitReached: the tenant has as many open batches as it may.
        """
        file = await self._files.find(wanted.tenant, wanted.input_file_id)
        if file.purpose != "batch":
            raise InvalidJob("input_file_id", f"is a file for {file.purpose!r}; its purpose must be 'batch'")
        aliases = await self._admin.routes()
        routes = {name: route.targets for name, route in aliases.items()}
        made = wanted.model_copy(update={"routes": routes})
        most_open = (await self._admin.tenant(wanted.tenant)).max_open_batches
        return await self._run(record.create(self._operations, made, most_open))

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
        order: Order = "desc",
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
