"""The secrets that sign a tenant's webhooks."""

import time
from secrets import token_hex

from pydantic import SecretStr

from ...schemas import keys
from ...schemas.errors import BadPolicy
from ...schemas.tenants import DEFAULT, check_tenant
from ...schemas.webhooks.delivery import TenantSecret, read_secrets
from ...schemas.webhooks.signing import check_secret, new_secret
from ..operations import Operations
from ..steps import Read, Steps, Write

MAX_SECRETS = 4
"""Maximum number of secrets of one tenant: the old and the new one, and room for a mistake."""


def read_all(operations: Operations, tenant: str) -> Steps[list[TenantSecret]]:
    """A tenant's secrets, the newest first.

    Raises:
        BadPolicy: no tenant can have this name.
    """
    _check(tenant)
    (fields,) = yield from operations.send(Read((("HGETALL", _key(operations, tenant)),)))
    return list(read_secrets(fields))


def add(operations: Operations, tenant: str, secret: str | None = None) -> Steps[TenantSecret]:
    """Add a secret, by default a random one. All of a tenant's secrets sign until they are dropped.

    Raises:
        BadPolicy: it can't sign, or the tenant has `MAX_SECRETS` already.
    """
    known = yield from read_all(operations, tenant)
    if len(known) >= MAX_SECRETS:
        raise BadPolicy(f"{tenant} has {len(known)} secrets, the maximum; drop one first")
    text = new_secret() if secret is None else secret
    try:
        check_secret(text)
    except ValueError as error:
        raise BadPolicy(str(error)) from None
    added = TenantSecret(id=token_hex(4), secret=SecretStr(text), created_ms=time.time_ns() // 1_000_000)
    # Each secret is a field of its own, so neither adding nor dropping one affects another.
    yield from operations.send(Write((("HSET", _key(operations, tenant), added.id, added.to_wire()),)))
    return added


def drop(operations: Operations, tenant: str, secret_id: str) -> Steps[int]:
    """Drop one of a tenant's secrets; return how many are left.

    Raises:
        BadPolicy: it has none with this id.
    """
    known = yield from read_all(operations, tenant)
    if secret_id not in {secret.id for secret in known}:
        raise BadPolicy(f"{tenant} has no secret {secret_id!r}; see `headrace tenants secret list {tenant}`")
    yield from operations.send(Write((("HDEL", _key(operations, tenant), secret_id),)))
    return len((yield from read_all(operations, tenant)))


def _key(operations: Operations, tenant: str) -> str:
    return keys.webhook_secrets(tenant, operations.settings.namespace)


def _check(tenant: str) -> None:
    check_tenant(tenant)
    if tenant == DEFAULT:
        raise BadPolicy("every tenant has secrets of its own; name a tenant")
