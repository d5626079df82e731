"""The records of batches: what was asked for, and how far it is.

    validating ─▶ in_progress ─▶ finalizing ─▶ completed, expired or cancelled
        └▶ failed     └▶ failed

Only the runner that holds a batch's lease changes its record. To cancel it, a client leaves a note, which the
runner finds when it renews the lease; until that is done, the batch is shown as `cancelling`.
"""

import json
import re
import time
from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from ...schemas.errors import BatchNotFound, InvalidJob, LimitReached
from ...schemas.ids import is_id, new_id
from ...schemas.job import Webhook
from ...schemas.keys import BatchKeys
from ...schemas.routes import ModelRoute
from ..files.listing import Order, page_of
from ..files.record import KIND as FILE_KIND
from ..openai.format import ENDPOINTS
from ..operations import Operations
from ..steps import Read, Steps, Write

KIND = "batch_"
_WINDOW = re.compile(r"([1-9]\d{0,5})([smhd])")
_UNIT_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
LONGEST_WINDOW_S = 7 * 86_400

RECORD_S = 30 * 86_400.0
"""How long a batch's record is kept after it was last changed."""


MAKING_S = 60
"""A batch that was counted this long ago has been made, if it ever is."""

MOST_LOOKED = 1000


class BatchStatus(StrEnum):
    """Where a batch is."""

    VALIDATING = "validating"
    IN_PROGRESS = "in_progress"
    FINALIZING = "finalizing"
    COMPLETED = "completed"
    FAILED = "failed"
    EXPIRED = "expired"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        """Whether the batch has ended."""
        return self in _ENDED


_ENDED = {BatchStatus.COMPLETED, BatchStatus.FAILED, BatchStatus.EXPIRED, BatchStatus.CANCELLED}


class BatchSpec(BaseModel):
    """What was asked for; it never changes.

    Attributes:
        tenant: whose batch it is.
        models: the models that its lines may name; None for any.
        created_at: seconds since the epoch, like `expires_at`.
        output_kept_s: how long the files of answers are kept; None for the usual time.
        output_file_id, error_file_id: what these files will be called, if there is anything in them.
        routes: the model aliases of that time, by name: each with its models' weights.
        webhook: who is told of its end.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    tenant: str
    endpoint: str
    input_file_id: str
    completion_window: str
    created_at: int
    expires_at: int
    output_file_id: str
    error_file_id: str
    metadata: dict[str, str] | None = None
    models: tuple[str, ...] | None = None
    output_kept_s: int | None = None
    routes: dict[str, dict[str, int]] = {}
    webhook: Webhook | None = None

    def model_of(self, name: str, key: str) -> str:
        """The model that answers the line with this key, which asks for `name`: always the same one.

        The aliases are those of the time when the batch was made, so that a run that takes it up again finds
        the jobs of the last one.
        """
        weights = self.routes.get(name)
        return ModelRoute(alias=name, targets=weights).choose(key) if weights else name

    @property
    def window_s(self) -> int:
        """Seconds from its creation to its expiry."""
        return self.expires_at - self.created_at


class RequestBatch(BaseModel):
    """One batch.

    Attributes:
        asked: what was asked for.
        status: where it is; the runner's view, without `cancelling`.
        outcome: how it ends, once that is decided.
        total, completed, failed: its lines, and how many have each kind of answer.
        cancelling_at: when it was asked to be cancelled, in seconds since the epoch.
        errors: why its file was refused.
        output_file, error_file: ids of the files of answers, once they are written.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    id: str
    asked: BatchSpec
    status: BatchStatus = BatchStatus.VALIDATING
    outcome: BatchStatus | None = None
    total: int = 0
    completed: int = 0
    failed: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    model: str | None = None
    in_progress_at: int | None = None
    finalizing_at: int | None = None
    completed_at: int | None = None
    failed_at: int | None = None
    expired_at: int | None = None
    cancelling_at: int | None = None
    cancelled_at: int | None = None
    errors: list[dict[str, Any]] | None = None
    output_file: str | None = None
    error_file: str | None = None

    def body(self) -> dict[str, Any]:
        """The batch as OpenAI's API shows it."""
        asked, cancelling = self.asked, self.cancelling_at is not None and not self.status.ended
        used = self.input_tokens + self.output_tokens
        moments = {name: getattr(self, name) for name in type(self).model_fields if name.endswith("_at")}
        return {
            "id": self.id,
            "object": "batch",
            "endpoint": asked.endpoint,
            "model": self.model,
            "errors": None if self.errors is None else {"object": "list", "data": self.errors},
            "input_file_id": asked.input_file_id,
            "completion_window": asked.completion_window,
            "status": str(BatchStatus.CANCELLING if cancelling else self.status),
            "output_file_id": self.output_file,
            "error_file_id": self.error_file,
            "created_at": asked.created_at,
            "expires_at": asked.expires_at,
            **moments,
            "request_counts": {"total": self.total, "completed": self.completed, "failed": self.failed},
            "usage": {
                "input_tokens": self.input_tokens,
                "input_tokens_details": {"cached_tokens": 0},
                "output_tokens": self.output_tokens,
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": used,
            },
            "metadata": asked.metadata,
        }


def batch_spec(
    tenant: str,
    endpoint: str,
    input_file_id: str,
    completion_window: str = "24h",
    *,
    metadata: dict[str, str] | None = None,
    models: tuple[str, ...] | None = None,
    output_kept_s: int | None = None,
    webhook: Webhook | None = None,
) -> BatchSpec:
    """What a tenant asks of a new batch.

    Args:
        tenant: the tenant that will own it.
        endpoint: the endpoint of all its lines.
        input_file_id: the file with its lines.
        completion_window: how long it may take, as in `24h`.
        metadata: the tenant's own notes about it.
        models: the models that its lines may name; None for any.
        output_kept_s: how long the files of answers are kept; None for the usual time.
        webhook: who is told of its end.

    Raises:
        InvalidJob: the endpoint has no batches, or `completion_window` isn't a time like `24h`, or is too
            long.
    """
    if endpoint not in ENDPOINTS:
        raise InvalidJob("endpoint", f"must be one of {', '.join(ENDPOINTS)}")
    found = _WINDOW.fullmatch(completion_window)
    window_s = int(found[1]) * _UNIT_S[found[2]] if found else 0
    if not 0 < window_s <= LONGEST_WINDOW_S:
        raise InvalidJob("completion_window", "must be a time such as '24h' or '90m', at most '7d'")
    now = int(time.time())
    return BatchSpec(
        tenant=tenant,
        endpoint=endpoint,
        input_file_id=input_file_id,
        completion_window=completion_window,
        created_at=now,
        expires_at=now + window_s,
        output_file_id=new_id(FILE_KIND),
        error_file_id=new_id(FILE_KIND),
        metadata=metadata,
        models=models,
        output_kept_s=output_kept_s,
        webhook=webhook,
    )


def keys_of(operations: Operations) -> BatchKeys:
    """The names of the records' keys."""
    return BatchKeys(operations.settings.namespace)


def create(operations: Operations, asked: BatchSpec, most_open: int | None = None) -> Steps[RequestBatch]:
    """Make a batch, which the next free runner takes.

    Raises:
        LimitReached: the tenant has `most_open` that have not ended.
    """
    keys, batch_id, tenant = keys_of(operations), new_id(KIND), asked.tenant
    record = keys.batch(tenant, batch_id)
    yield from _open(operations, tenant, batch_id, most_open)
    yield from operations.send(
        Write(
            (
                ("HSET", record, "asked", asked.model_dump_json()),
                ("PEXPIRE", record, int(1000 * (asked.window_s + RECORD_S))),
                ("ZADD", keys.of(tenant), 0, batch_id),
                # In seconds it is in the past on any clock, and the oldest batch is taken first.
                ("ZADD", keys.active, "NX", asked.created_at, f"{tenant}:{batch_id}"),
            )
        )
    )
    return RequestBatch(id=batch_id, asked=asked)


def _open(operations: Operations, tenant: str, batch_id: str, most: int | None) -> Steps[None]:
    """Count a new batch among the tenant's open ones, if there are not too many."""
    name, now = keys_of(operations).open(tenant), int(time.time())
    # Counted before it is looked: of several made at once, none is over the limit unseen.
    _, count = yield from operations.send(Write((("ZADD", name, now, batch_id), ("ZCARD", name))))
    if most is None or count <= most:
        return
    # Some may have been counted by a gateway that died before it made them.
    oldest = ("ZRANGEBYSCORE", name, "-inf", now - MAKING_S, "LIMIT", 0, MOST_LOOKED)
    (ids,) = yield from operations.send(Read((oldest,)))
    others = [each.decode() for each in ids]
    batches = yield from _read(operations, tenant, others)
    gone = [each for each, batch in zip(others, batches, strict=True) if batch is None or batch.status.ended]
    kept = count - len(gone) <= most
    leaving = gone if kept else [*gone, batch_id]
    if leaving:
        yield from operations.send(Write((("ZREM", name, *leaving),)))
    if not kept:
        raise LimitReached(tenant, "max_open_batches", most)


def close(operations: Operations, tenant: str, batch_id: str) -> Steps[None]:
    """Count a batch that has ended no longer."""
    yield from operations.send(Write((("ZREM", keys_of(operations).open(tenant), batch_id),)))


def find(operations: Operations, tenant: str, batch_id: str) -> Steps[RequestBatch]:
    """A tenant's batch.

    Raises:
        BatchNotFound: the tenant has none with this id.
    """
    if not is_id(KIND, batch_id):
        # Quoted in the answer, and it is anything that a client sent.
        raise BatchNotFound(str(batch_id)[:64])
    (batch,) = yield from _read(operations, tenant, [batch_id])
    if batch is None:
        raise BatchNotFound(batch_id)
    return batch


def page(
    operations: Operations, tenant: str, *, after: str | None, limit: int, order: Order = "desc"
) -> Steps[tuple[list[RequestBatch], bool]]:
    """Some of a tenant's batches, after that with the id `after`, and whether there are more."""
    keys = keys_of(operations)

    def read(ids: list[str]) -> Steps[list[RequestBatch]]:
        found = yield from _read(operations, tenant, ids)
        gone = [each for each, batch in zip(ids, found, strict=True) if batch is None]
        if gone:  # their retention has ended
            yield from operations.send(Write((("ZREM", keys.of(tenant), *gone),)))
        return [batch for batch in found if batch is not None]

    return (yield from page_of(operations, keys.of(tenant), read, after=after, limit=limit, order=order))


def unfinished(operations: Operations, limit: int) -> Steps[list[RequestBatch]]:
    """The unfinished batches of all tenants, at most `limit`, by tenant and age."""
    (members,) = yield from operations.send(Read((("ZRANGE", keys_of(operations).active, 0, limit - 1),)))
    found: list[RequestBatch | None] = []
    for member in sorted(members):
        tenant, _, batch_id = member.decode().rpartition(":")
        found += yield from _read(operations, tenant, [batch_id])
    return [batch for batch in found if batch is not None and not batch.status.ended]


def cancel(operations: Operations, tenant: str, batch_id: str) -> Steps[RequestBatch]:
    """Ask for a tenant's batch to be cancelled; one that has ended, or is about to, doesn't change.

    Raises:
        BatchNotFound: the tenant has none with this id.
    """
    batch = yield from find(operations, tenant, batch_id)
    if batch.status in {BatchStatus.VALIDATING, BatchStatus.IN_PROGRESS}:
        # A key of its own, because only the holder of the lease writes the record. NX keeps the first time.
        note = ("SET", keys_of(operations).cancelled(tenant, batch_id), int(time.time()), "NX", "EX")
        yield from operations.send(Write(((*note, int(RECORD_S)),)))
        batch = yield from find(operations, tenant, batch_id)
    return batch


def _read(operations: Operations, tenant: str, ids: list[str]) -> Steps[list[RequestBatch | None]]:
    keys = keys_of(operations)
    commands: list[tuple[str | int, ...]] = []
    for each in ids:
        commands += [("HGETALL", keys.batch(tenant, each)), ("GET", keys.cancelled(tenant, each))]
    replies = yield from operations.send(Read(commands))
    return [_parsed(*item) for item in zip(ids, replies[::2], replies[1::2], strict=True)]


def _parsed(batch_id: str, fields: Mapping[bytes, bytes], cancelled: bytes | None) -> RequestBatch | None:
    """The batch; None if there is none, or it can't be read."""
    known: dict[str, Any] = {name.decode(): value.decode() for name, value in fields.items()}
    try:
        for name in ("asked", "errors"):
            if name in known:
                known[name] = json.loads(known[name])
        return RequestBatch(**{**known, "id": batch_id, "cancelling_at": cancelled})
    except (ValidationError, ValueError):
        return None
