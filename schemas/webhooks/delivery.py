"""Webhook deliveries as they are stored, and the secrets that sign them."""

import hashlib
import json
import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Self
from urllib.parse import urlsplit, urlunsplit

from pydantic import BaseModel, ConfigDict, SecretStr

PER_ENDPOINT = 8
"""Maximum number of attempts in flight to one endpoint."""


class DeliveryState(StrEnum):
    """The state of a delivery; it is pending until it reaches one of the others."""

    PENDING = "pending"
    DELIVERED = "delivered"
    FAILED = "failed"
    """Every attempt of the schedule failed."""
    REFUSED = "refused"
    """Webhooks may not be sent to the receiver's address."""
    DISABLED = "disabled"
    """The endpoint answered 410 Gone, to this delivery or an earlier one."""


class DeliveryAttempt(BaseModel):
    """One attempt to deliver a webhook.

    Attributes:
        at_ms: when it ended, by Redis's clock.
        status: the receiver's HTTP status; None if there was no answer.
        took_s: how long it took.
        error: what went wrong; empty for a 2xx.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    at_ms: int = 0
    status: int | None = None
    took_s: float = 0.0
    error: str = ""


class Delivery(BaseModel):
    """One webhook delivery, without its payload and secrets.

    Attributes:
        id: the `webhook-id` that the receiver sees.
        job_id: the job, or the batch, that it is about.
        event: what happened to it.
        tenant: the tenant whose it is.
        url: the receiver, without parts that may be secret.
        state: whether it is still pending, or how it ended.
        created_ms: when it was accepted, by Redis's clock.
        attempts: number of attempts since it was accepted or replayed.
        history: the latest attempts, including those before a replay.
        next_ms: when a waiting delivery is tried next, by Redis's clock; only known if a single one was asked
            for.
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
    history: tuple[DeliveryAttempt, ...] = ()
    next_ms: int | None = None

    @property
    def last(self) -> DeliveryAttempt:
        """The latest attempt; an empty one if there has been none."""
        return self.history[-1] if self.history else DeliveryAttempt()

    @classmethod
    def of(cls, delivery_id: str, fields: Mapping[bytes, bytes]) -> Self:
        """Read a delivery from redis-py's reply to HGETALL."""
        known: dict[str, Any] = {name.decode(): value.decode() for name, value in fields.items()}
        known["history"] = json.loads(known.get("history", "[]"))
        return cls(**known | {"id": delivery_id, "url": shown_url(known["url"])})


class TenantSecret(BaseModel):
    """One of a tenant's secrets; if there are several, all of them sign.

    Attributes:
        id: identifies the secret without showing it.
        secret: the secret itself, masked unless `get_secret_value()` is called.
        created_ms: when it was added.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    id: str
    secret: SecretStr
    created_ms: int

    def to_wire(self) -> str:
        """Its field in `keys.webhook_secrets()`, with the secret in plain text."""
        return json.dumps(self.model_dump() | {"secret": self.secret.get_secret_value()})


def read_secrets(fields: Mapping[Any, bytes | str]) -> tuple[TenantSecret, ...]:
    """The secrets in a `keys.webhook_secrets()`, newest first."""
    known = [TenantSecret.model_validate_json(value) for value in fields.values()]
    return tuple(sorted(known, key=lambda secret: secret.created_ms, reverse=True))


def delivery_id(job_id: str, entry_id: str) -> str:
    """The `webhook-id` of an outbox entry's event: the same however often it is sent."""
    return f"msg_{job_id.partition('.')[0]}_{entry_id}"


def batch_delivery_id(batch_id: str) -> str:
    """The `webhook-id` of a batch's end, which comes once."""
    return f"msg_{batch_id}"


def origin_id(url: str) -> str:
    """The id of an origin, that is scheme, host and port, whose attempts in flight count together."""
    scheme, _, rest = url.partition("://")
    host = re.split(r"[/?#]", rest, maxsplit=1)[0].rpartition("@")[2].lower()
    # A default port is the same place, written out or not.
    return _digest(f"{scheme}://{host.removesuffix(':443' if scheme == 'https' else ':80')}")


def endpoint_id(tenant: str, url: str) -> str:
    """The id of an endpoint, that is one tenant's URL without its query, whose failures count together.

    It begins with the URL's origin, which the scripts read from it.
    """
    # The query often differs by job, or holds a token; neither makes it another receiver.
    place = url.partition("?")[0].partition("#")[0]
    return f"{origin_id(url)}.{_digest(f'{tenant} {place}')}"


def _digest(name: str) -> str:
    return hashlib.blake2b(name.encode(), digest_size=10).hexdigest()


def shown_url(url: str) -> str:
    """An address without user, password, query and fragment; an unreadable one isn't shown at all."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "<an address that can't be read>"
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
