"""What is kept of webhook deliveries, and the secrets that sign them."""

import hashlib
import json
import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Self
from urllib.parse import urlsplit, urlunsplit

from pydantic import BaseModel, ConfigDict, SecretStr

PER_ENDPOINT = 8
"""Attempts under way at once to one endpoint."""


class DeliveryState(StrEnum):
    """Where a delivery is: pending until one of the others."""

    PENDING = "pending"
    DELIVERED = "delivered"
    FAILED = "failed"
    """Every attempt of the schedule failed."""
    REFUSED = "refused"
    """The receiver's address is not one that webhooks may be sent to."""
    DISABLED = "disabled"
    """The endpoint said that it is gone (410), to this delivery or to one before."""


class Attempted(BaseModel):
    """One attempt.

    Attributes:
        at_ms: when it ended, by Redis's clock.
        status: the receiver's HTTP status; None when it gave none.
        took_s: how long it took.
        error: what went wrong; empty for a 2xx.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    at_ms: int = 0
    status: int | None = None
    took_s: float = 0.0
    error: str = ""


class Delivery(BaseModel):
    """One delivery. The payload and secrets are not shown.

    Attributes:
        id: the receiver's `webhook-id`.
        job_id: the job it tells of.
        event: what of it.
        url: where to, without what may be secret in it.
        attempts: since it was accepted, or replayed.
        history: the latest attempts, replays included.
        next_ms: of one that waits, when it is tried next, by Redis's clock; known where one was asked for.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    id: str
    job_id: str
    event: str
    tenant: str
    url: str
    state: DeliveryState
    created_ms: int
    attempts: int = 0
    history: tuple[Attempted, ...] = ()
    next_ms: int | None = None

    @property
    def last(self) -> Attempted:
        """The latest attempt; an empty one before the first."""
        return self.history[-1] if self.history else Attempted()

    @classmethod
    def of(cls, delivery_id: str, fields: Mapping[bytes, bytes]) -> Self:
        """The delivery in a hash as redis-py reads it."""
        known: dict[str, Any] = {name.decode(): value.decode() for name, value in fields.items()}
        known["history"] = json.loads(known.get("history", "[]"))
        return cls(**known | {"id": delivery_id, "url": shown_url(known["url"])})


class TenantSecret(BaseModel):
    """One of a tenant's secrets; while several are there, all of them sign.

    Attributes:
        id: names it where it must not be shown.
        created_ms: when it was added.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    id: str
    secret: SecretStr
    created_ms: int

    def to_wire(self) -> str:
        """Its field in `keys.webhook_secrets()`; the secret is in it as it is."""
        return json.dumps(self.model_dump() | {"secret": self.secret.get_secret_value()})


def read_secrets(fields: Mapping[Any, bytes | str]) -> tuple[TenantSecret, ...]:
    """The secrets in a `keys.webhook_secrets()`, the newest first."""
    known = [TenantSecret.model_validate_json(value) for value in fields.values()]
    return tuple(sorted(known, key=lambda secret: secret.created_ms, reverse=True))


def delivery_id(job_id: str, entry_id: str) -> str:
    """The `webhook-id` of what an outbox entry tells: the same however often it is sent."""
    return f"msg_{job_id.partition('.')[0]}_{entry_id}"


def origin_id(url: str) -> str:
    """Whose silence counts together: scheme, host and port of an address, whatever its spelling."""
    scheme, _, rest = url.partition("://")
    host = re.split(r"[/?#]", rest, maxsplit=1)[0].rpartition("@")[2].lower()
    return _digest(f"{scheme}://{host.removesuffix(':443' if scheme == 'https' else ':80')}")


def endpoint_id(tenant: str, url: str) -> str:
    """Whose failures count together: one tenant's deliveries to one address, whatever its query.

    It begins with the address's origin, which the scripts read there.
    """
    place = url.partition("?")[0].partition("#")[0]
    return f"{origin_id(url)}.{_digest(f'{tenant} {place}')}"


def _digest(name: str) -> str:
    return hashlib.blake2b(name.encode(), digest_size=10).hexdigest()


def shown_url(url: str) -> str:
    """An address without user, password, query and fragment; nothing of one that can't be read."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "<an address that can't be read>"
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
