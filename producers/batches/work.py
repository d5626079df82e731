"""One batch, taken from its current state to its end by the holder of its lease.

Every step can be done again: reading the file, finding the lines' jobs, joining the parts into files whose
ids were chosen when the batch was made. So a runner that dies, or loses Redis or the store, leaves nothing to
repair.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import suppress

from ...schemas.errors import BrokerUnavailable, FilesUnavailable, HeadraceError, StoredFileNotFound
from ...schemas.job import Webhook
from ...schemas.scripts.advance_batch import BatchPart, advance_batch
from ...schemas.scripts.end_batch import end_batch
from ...schemas.settings.files import FilesSettings
from ...schemas.webhooks.openai_events import batch_event
from ..async_client import AsyncClient
from ..files.store import FileStore
from ..steps import Read
from .feed import Feed, Stopped
from .parts import AnswerPart, Parts
from .record import RECORD_S, BatchStatus, RequestBatch, close, find, keys_of
from .requests import Findings, numbered

RENEW_S = 1.0
"""The lease is renewed, and a cancellation noticed, at least this often."""

CLEAN_UP_S = 60.0
"""How long the parts stay after a batch's end: a Redis that was killed may have forgotten the last second."""

GIVE_UP_S = 3600.0
"""How long after its expiry a batch is tried again whose files can't be read."""

WEBHOOK_S = 7 * 86_400.0
"""How long the webhook about a batch's end is kept, to be sent and replayed."""

LINE_BYTES = 32 * 2**20


class LeaseLost(Exception):
    """Another runner has the batch."""


class BatchWork:
    """The work on one batch, under the lease of `holder`."""

    def __init__(
        self,
        client: AsyncClient,
        files: FileStore,
        settings: FilesSettings,
        holder: str,
        tenant: str,
        batch_id: str,
    ) -> None:
        self._client, self._files, self._settings = client, files, settings
        self._holder, self._tenant, self._id = holder, tenant, batch_id
        self._operations, self._run_steps = client._operations, client._run
        self._keys = keys_of(client._operations)
        self._stopped = Stopped()
        self._webhook: Webhook | None = None
        self._line_bytes = max(LINE_BYTES, 8 * self._operations.settings.limits.max_job_bytes)

    async def run(self) -> None:
        """Do everything that is left to do.

        Raises:
            LeaseLost: another runner has the batch.
            HeadraceError: it can't continue now and must be taken again later.
        """
        try:
            async with asyncio.TaskGroup() as tasks:
                renewing = tasks.create_task(self._keep_lease())
                ended_now = await self._to_the_end()
                # Else the group would wait for it; the lease still holds for the note below.
                renewing.cancel()
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None
        if ended_now:
            # Still on the list of unfinished batches: after this time it is taken once more, to delete its
            # parts.
            await self._note(lease_s=CLEAN_UP_S)
        else:
            # Taken after its end, so only this is left. A kill before the note repeats it.
            await self._files.blobs.delete_folder(self._folder)
            await self._close()
            await self._note(leaves=True)

    async def release(self) -> None:
        """Let another runner take the batch at once."""
        with suppress(LeaseLost):
            await self._note(lease_s=0)

    async def _to_the_end(self) -> bool:
        """Bring the batch to its end; return whether it had not ended yet."""
        batch = await self._read()
        self._webhook = batch.asked.webhook
        try:
            return await self._do_steps(batch)
        except FilesUnavailable as error:
            given_up = time.time() > batch.asked.expires_at + GIVE_UP_S
            if batch.status.ended or not given_up:
                raise
            await self._fail("files_unavailable", str(error), None)
            return True

    async def _do_steps(self, batch: RequestBatch) -> bool:
        if batch.status is BatchStatus.VALIDATING:
            batch = await self._validate(batch)
        if batch.status is BatchStatus.IN_PROGRESS:
            batch = await self._answer(batch)
        if batch.status is not BatchStatus.FINALIZING:
            return False
        await self._finalize(batch)
        return True

    @property
    def _folder(self) -> str:
        return f"batches/{self._id}"

    async def _read(self) -> RequestBatch:
        return await self._run_steps(find(self._operations, self._tenant, self._id))

    async def _content(self, file_id: str) -> AsyncIterator[bytes]:
        file = await self._files.find(self._tenant, file_id)
        async for piece in self._files.read(file):
            yield piece

    async def _validate(self, batch: RequestBatch) -> RequestBatch:
        findings, asked = Findings(), batch.asked
        try:
            async for page in numbered(self._content(asked.input_file_id), self._line_bytes):
                for number, text in page:
                    findings.check(number, text, asked.endpoint, self._line_bytes)
                if findings.full:
                    break
                # A file of many lines must not keep the lease's renewal, or other requests, waiting.
                await asyncio.sleep(0)
            findings.end()
        except StoredFileNotFound as gone:
            return await self._fail("input_file_not_found", str(gone), "input_file_id")
        except (BrokerUnavailable, FilesUnavailable):
            raise
        except HeadraceError as wrong:
            return await self._fail("invalid_file", str(wrong), "input_file_id")
        if findings.faults:
            return await self._move(BatchStatus.FAILED, errors=json.dumps(findings.faults))
        model = {"model": next(iter(findings.models))} if len(findings.models) == 1 else {}
        return await self._move(BatchStatus.IN_PROGRESS, total=findings.lines, **model)

    async def _answer(self, batch: RequestBatch) -> RequestBatch:
        parts = await self._parts()
        left_s = max(0.0, batch.asked.expires_at - time.time())
        expiry = asyncio.get_running_loop().call_later(left_s, self._stopped.say, BatchStatus.EXPIRED)
        feed = Feed(
            self._client,
            batch,
            lambda: self._content(batch.asked.input_file_id),
            parts,
            self._stopped,
            most_bytes=self._line_bytes,
            in_flight=self._settings.batch_in_flight,
        )
        try:
            await feed.run()
        except StoredFileNotFound as gone:
            return await self._fail("input_file_not_found", str(gone), "input_file_id")
        finally:
            expiry.cancel()
        outcome = self._stopped.outcome or BatchStatus.COMPLETED
        return await self._move(BatchStatus.FINALIZING, outcome=str(outcome))

    async def _finalize(self, batch: RequestBatch) -> None:
        parts, asked, written = await self._parts(), batch.asked, {}
        kinds = (("outputs", asked.output_file_id), ("errors", asked.error_file_id))
        for kind, file_id in kinds:
            if not parts.has(kind):
                continue
            name = f"{self._id}_{'output' if kind == 'outputs' else 'error'}.jsonl"
            try:
                await self._files.create(
                    self._tenant,
                    name,
                    "batch_output",
                    parts.joined(kind),
                    kept_s=asked.output_kept_s,
                    file_id=file_id,
                )
            except FileNotFoundError:
                reason = f"answers of {self._id} aren't here; do all gateways share one files_url?"
                raise FilesUnavailable(reason) from None
            written["output_file" if kind == "outputs" else "error_file"] = file_id
        await self._move(batch.outcome or BatchStatus.COMPLETED, **written)

    async def _parts(self) -> Parts:
        (known,) = await self._run_steps(
            self._operations.send(Read((("HGETALL", self._keys.parts(self._tenant, self._id)),)))
        )
        parts = [AnswerPart.parsed(name.decode(), text.decode()) for name, text in known.items()]

        async def note(part: BatchPart) -> None:
            await self._note(part=part)

        return Parts(self._files.blobs, self._folder, self._holder, parts, note)

    async def _fail(self, code: str, message: str, param: str | None) -> RequestBatch:
        fault = {"code": code, "line": None, "message": message, "param": param}
        return await self._move(BatchStatus.FAILED, errors=json.dumps([fault]))

    async def _move(self, status: BatchStatus, **fields: str | int) -> RequestBatch:
        now = int(time.time())
        fields = {"status": str(status), f"{status}_at": now, **fields}
        if status.ended and self._webhook is not None:
            await self._end(status, now, fields, self._webhook)
        else:
            await self._note(fields=fields)
        if status.ended:
            await self._close()
        return await self._read()

    async def _close(self) -> None:
        await self._run_steps(close(self._operations, self._tenant, self._id))

    async def _end(
        self, status: BatchStatus, at_s: int, fields: dict[str, str | int], webhook: Webhook
    ) -> None:
        call = end_batch(
            self._keys,
            self._tenant,
            self._id,
            self._holder,
            self._settings.batch_lease_s,
            RECORD_S,
            fields,
            event=batch_event(status),
            at_s=at_s,
            url=webhook.url,
            secret=webhook.secret.get_secret_value() if webhook.secret else "",
            delivery_s=WEBHOOK_S,
        )
        if not await self._run_steps(self._operations.send(call)):
            raise LeaseLost

    async def _keep_lease(self) -> None:
        while True:
            await asyncio.sleep(min(RENEW_S, self._settings.batch_lease_s / 5))
            with suppress(BrokerUnavailable):  # the lease may still hold when Redis is back
                await self._note()

    async def _note(
        self,
        *,
        part: BatchPart | None = None,
        fields: dict[str, str | int] | None = None,
        lease_s: float | None = None,
        leaves: bool = False,
    ) -> None:
        call = advance_batch(
            self._keys,
            self._tenant,
            self._id,
            self._holder,
            self._settings.batch_lease_s if lease_s is None else lease_s,
            RECORD_S,
            part=part,
            fields=fields,
            leaves=leaves,
        )
        cancelled = await self._run_steps(self._operations.send(call))
        if cancelled is None:
            raise LeaseLost
        # Every renewal's reply tells it, so a cancellation is noticed within `RENEW_S`.
        if cancelled:
            self._stopped.say(BatchStatus.CANCELLED)
