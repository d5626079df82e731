"""Tenants' policies: what operators set, and the copies that scripts read."""

from ...schemas import keys
from ...schemas.tenants import DEFAULT, VERSION, TenantLimits, TenantPolicy, check_tenant, read_policies
from ..operations import Operations
from ..steps import Read, Steps, Write
from .overview import model_tags


def list_policies(operations: Operations) -> Steps[dict[str, TenantPolicy]]:
    """The policies by tenant; `*` is the default."""
    (fields,) = yield from operations.send(Read((("HGETALL", keys.tenants(operations.settings.namespace)),)))
    return read_policies(fields)


def policy_of(operations: Operations, tenant: str) -> Steps[TenantPolicy]:
    """The policy that applies to the tenant: its own, the default, or one without limits.

    Raises:
        BadPolicy: no tenant can have this name.
    """
    check_tenant(tenant)
    name = keys.tenants(operations.settings.namespace)
    # Not all of them: gateways ask with each upload and each batch.
    own, default = yield from operations.send(Read((("HGET", name, tenant), ("HGET", name, DEFAULT))))
    policies = read_policies({each: text for each, text in ((tenant, own), (DEFAULT, default)) if text})
    return policies.get(tenant) or policies.get(DEFAULT) or TenantPolicy()


def set_policy(operations: Operations, tenant: str, limits: TenantLimits) -> Steps[TenantPolicy]:
    """Set a tenant's policy, here and in every existing queue.

    Raises:
        BadPolicy: a limit is wrong, or no tenant can have this name.
    """
    policy = TenantPolicy.make(**limits)
    yield from _change(operations, tenant, policy)
    return policy


def drop_policy(operations: Operations, tenant: str) -> Steps[None]:
    """Delete a tenant's policy, here and in every existing queue.

    Raises:
        BadPolicy: no tenant can have this name.
    """
    yield from _change(operations, tenant, None)


def _change(operations: Operations, tenant: str, policy: TenantPolicy | None) -> Steps[None]:
    check_tenant(tenant)
    settings = operations.settings
    source = keys.tenants(settings.namespace)
    # If this is sent twice, the version rises by two; the copies below then count as old, and workers renew
    # them.
    yield from operations.send(Write((_write(source, tenant, policy), ("HINCRBY", source, VERSION, 1))))
    (version,) = yield from operations.send(Read((("HGET", source, VERSION),)))
    shared = None if policy is None else policy.shared_among(settings.partitions)
    tags = yield from model_tags(operations)
    # If a queue's copy is older than the previous version, its workers copy all policies.
    versions = yield from operations.send(Read([("HGET", tag.tenants, VERSION) for tag in tags]))
    writes: list[tuple[str | int, ...]] = []
    for tag, known in zip(tags, versions, strict=True):
        writes.append(_write(tag.tenants, tenant, shared))
        if int(known or 0) == int(version) - 1:
            writes.append(("HSET", tag.tenants, VERSION, int(version)))
    if writes:
        yield from operations.send(Write(writes))


def _write(key: str, tenant: str, policy: TenantPolicy | None) -> tuple[str | int, ...]:
    return ("HDEL", key, tenant) if policy is None else ("HSET", key, tenant, policy.to_wire())
