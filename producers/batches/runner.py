"""Runs batches: each gateway process takes some that no other runs, and works on them until it is stopped.

A tenant may have more batches than all processes work on. So a process that has its most takes one more of a
tenant of which it has none, and gives back one of the tenant of which it has the most: nobody's only batch
waits for the end of somebody else's, and what was answered of the one that is given back is kept.
"""

import asyncio
import logging
import random
import secrets
from collections import Counter
from contextlib import suppress

from ...schemas.errors import HeadraceError
from ...schemas.scripts.claim_batch import claim_batch
from ...schemas.settings.files import FilesSettings
from ..async_client import AsyncClient
from ..files.store import FileStore
from .record import keys_of
from .work import BatchWork, LeaseLost

POLL_S = 1.0
"""How often a process with room looks for a batch."""

SWEEP_S = 60.0
"""How often expired contents are looked for."""

MOST_BATCHES = 8
"""Maximum number of batches that one process works on."""

RETRY_S = 5.0
"""Pause after trouble, before anything is tried again."""


class BatchRunner:
    """Takes batches and runs them in the event loop in which `run` is awaited.

    Args:
        client, files: the process's own.
    """

    def __init__(self, client: AsyncClient, files: FileStore, settings: FilesSettings) -> None:
        self._client, self._files, self._settings = client, files, settings
        self._works: dict[asyncio.Task[None], str] = {}  # and whose batch each is about
        self._leaving: set[asyncio.Task[None]] = set()
        self._log = logging.getLogger("headrace.batches")

    async def run(self) -> None:
        """Run batches until cancelled; other processes then take those that are not done, at once."""
        sweeping = asyncio.create_task(self._keep_sweeping())
        try:
            while True:
                await self._take()
                await asyncio.sleep(POLL_S * random.uniform(0.7, 1.0))
        finally:
            tasks = (sweeping, *self._works, *self._leaving)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _take(self) -> None:
        while True:
            ours = Counter(self._works.values())
            full = len(self._works) >= MOST_BATCHES
            if full and max(ours.values()) == 1:
                return
            # New for each try, so that nothing of an earlier one, even of this process, is taken for its own.
            holder = secrets.token_hex(8)
            lease_s, skipped = self._settings.batch_lease_s, [*ours] if full else []
            call = claim_batch(keys_of(self._client._operations), holder, lease_s, skipped)
            try:
                claimed = await self._client._run(self._client._operations.send(call))
            except HeadraceError as error:
                self._log.warning("no batch can be taken: %s", error)
                return
            if claimed is None:
                return
            if len(self._works) >= MOST_BATCHES:  # still: none has ended meanwhile
                self._give_way(max(ours, key=lambda tenant: ours[tenant]))
            work = BatchWork(self._client, self._files, self._settings, holder, *claimed)
            task = asyncio.create_task(self._do(work, claimed[1]), name=f"headrace-{claimed[1]}")
            self._works[task] = claimed[0]
            task.add_done_callback(lambda task: self._works.pop(task, None))

    def _give_way(self, tenant: str) -> None:
        """Give back the batch of this tenant that was taken last."""
        task = next(task for task, whose in reversed(self._works.items()) if whose == tenant)
        del self._works[task]
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)
        task.cancel()

    async def _do(self, work: BatchWork, batch_id: str) -> None:
        try:
            await work.run()
        except LeaseLost:
            self._log.info("%s is run by another process now", batch_id)
        except HeadraceError as error:
            self._log.warning("%s can't continue now and will be tried again: %s", batch_id, error)
            try:
                # The lease is kept meanwhile, so that no other process meets the same trouble at once.
                await asyncio.sleep(RETRY_S)
            finally:
                await self._release(work)
        except asyncio.CancelledError:
            await self._release(work)
            raise
        except Exception:
            self._log.exception("%s can't continue, because of a defect", batch_id)  # its lease lapses

    async def _release(self, work: BatchWork) -> None:
        with suppress(HeadraceError):
            await work.release()

    async def _keep_sweeping(self) -> None:
        while True:
            try:
                while await self._files.sweep():
                    pass
            except HeadraceError as error:
                self._log.warning("expired files can't be deleted now: %s", error)
            await asyncio.sleep(SWEEP_S * random.uniform(0.7, 1.0))
