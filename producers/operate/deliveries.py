"""Webhook deliveries as an operator sees them, and the secrets that sign them."""

import time
from collections.abc import Mapping
from secrets import token_hex

from pydantic import SecretStr

from ...schemas import keys
from ...schemas.errors import DeliveryNotFound
from ...schemas.keys import Tag
from ...schemas.scripts import replay_delivery
from ...schemas.tenants import BadPolicy, check_tenant
from ...schemas.webhooks.delivery import Delivery, DeliveryState, TenantSecret, read_secrets
from ...schemas.webhooks.signing import check_secret, new_secret
from ..operations import Operations
from ..steps import Read, Steps, check_name
from .overview import model_tags

PAGE = 500
"""Deliveries of one queue read in one round trip."""

_SHOWN = tuple(name for name in Delivery.model_fields if name not in {"id", "next_ms"})
_NAMES = tuple(name.encode() for name in _SHOWN)

MAX_SECRETS = 4
"""Of one tenant at once: the old and the new one, and room for a mistake."""


def list_deliveries(
    operations: Operations, *, state: DeliveryState | None = None, limit: int = 100
) -> Steps[list[Delivery]]:
    """The newest deliveries of all models, at most `limit`, newest first; of one state if it is given."""
    found: list[Delivery] = []
    for tag in (yield from model_tags(operations)):
        found += yield from _newest(operations, tag, state, limit)
    return sorted(found, key=lambda delivery: delivery.created_ms, reverse=True)[:limit]


def _newest(
    operations: Operations, tag: Tag, state: DeliveryState | None, limit: int
) -> Steps[list[Delivery]]:
    found: list[Delivery] = []
    start = 0
    while len(found) < limit:
        (ids,) = yield from operations.send(Read((("ZREVRANGE", tag.deliveries, start, start + PAGE - 1),)))
        if not ids:
            break
        commands = [("HMGET", tag.delivery(id_.decode()), *_SHOWN) for id_ in ids]  # not the bodies
        rows = yield from operations.send(Read(commands))
        hashes = [{n: v for n, v in zip(_NAMES, row, strict=True) if v is not None} for row in rows]
        read = [Delivery.of(id_.decode(), fields) for id_, fields in zip(ids, hashes, strict=True) if fields]
        found += [delivery for delivery in read if state in {None, delivery.state}]
        start += PAGE
    return found[:limit]


def find_delivery(operations: Operations, delivery_id: str) -> Steps[Delivery]:
    """One delivery by its `webhook-id`.

    Raises:
        DeliveryNotFound: there is none, or its retention has ended.
    """
    check_name("id", delivery_id)
    tags = yield from model_tags(operations)
    hashes = yield from operations.send(Read([("HGETALL", tag.delivery(delivery_id)) for tag in tags]))
    for tag, fields in zip(tags, hashes, strict=True):
        if fields:
            found = Delivery.of(delivery_id, fields)
            return found.model_copy(update={"next_ms": (yield from _next_ms(operations, tag, found, fields))})
    raise DeliveryNotFound(delivery_id)


def _next_ms(
    operations: Operations, tag: Tag, delivery: Delivery, fields: Mapping[bytes, bytes]
) -> Steps[int | None]:
    """When a delivery is tried next, at the earliest; None where it is being tried now, or never again."""
    endpoint = fields.get(b"endpoint", b"").decode()
    if delivery.state is not DeliveryState.PENDING or not endpoint:
        return None
    due, under_way, left_alone_until = yield from operations.send(
        Read(
            (
                ("ZSCORE", tag.waiting(endpoint), delivery.id),
                ("ZSCORE", tag.sending(endpoint), delivery.id),
                ("HGET", tag.endpoint(endpoint), "open_until_ms"),
            )
        )
    )
    return (
        None
        if due is None or under_way is not None
        else max(int(float(due)), int(float(left_alone_until or 0)))
    )


def replay(operations: Operations, delivery_id: str) -> Steps[bool]:
    """Send it again, now, and take its endpoint for reachable.

    Raises:
        DeliveryNotFound: there is none, or its retention has ended.
    """
    check_name("id", delivery_id)
    for tag in (yield from model_tags(operations)):
        replayed: bool = yield from operations.send(replay_delivery(tag, delivery_id))
        if replayed:
            return True
    raise DeliveryNotFound(delivery_id)


def tenant_secrets(operations: Operations, tenant: str) -> Steps[tuple[TenantSecret, ...]]:
    """A tenant's secrets, the newest first."""
    _check(tenant)
    (fields,) = yield from operations.send(Read((("HGETALL", _secrets(operations, tenant)),)))
    return read_secrets(fields)


def add_secret(operations: Operations, tenant: str, secret: str | None = None) -> Steps[TenantSecret]:
    """Add a secret, a new random one unless it is given; all of a tenant's sign until they are dropped.

    Raises:
        BadPolicy: it can't sign, or the tenant has `MAX_SECRETS` already.
    """
    known = yield from tenant_secrets(operations, tenant)
    if len(known) >= MAX_SECRETS:
        raise BadPolicy(f"{tenant} has {len(known)} secrets, the maximum; drop one first")
    text = new_secret() if secret is None else secret
    try:
        check_secret(text)
    except ValueError as error:
        raise BadPolicy(str(error)) from None
    added = TenantSecret(id=token_hex(4), secret=SecretStr(text), created_ms=time.time_ns() // 1_000_000)
    # Sent as reads are, and as safe to repeat; so is dropping. Neither touches another secret.
    yield from operations.send(Read((("HSET", _secrets(operations, tenant), added.id, added.to_wire()),)))
    return added


def drop_secret(operations: Operations, tenant: str, secret_id: str) -> Steps[int]:
    """Drop one of a tenant's secrets; how many are left.

    Raises:
        BadPolicy: it has none of that id.
    """
    known = yield from tenant_secrets(operations, tenant)
    if secret_id not in {secret.id for secret in known}:
        raise BadPolicy(f"{tenant} has no secret {secret_id!r}; see `headrace tenants secret list {tenant}`")
    yield from operations.send(Read((("HDEL", _secrets(operations, tenant), secret_id),)))
    left = yield from tenant_secrets(operations, tenant)
    return len(left)


def _secrets(operations: Operations, tenant: str) -> str:
    return keys.webhook_secrets(tenant, operations.settings.namespace)


def _check(tenant: str) -> None:
    check_tenant(tenant)
    if tenant == "*":
        raise BadPolicy("every tenant has secrets of its own; name a tenant")
