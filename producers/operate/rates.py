"""What is left of a tenant's rates."""

import time

from ...schemas import keys
from ...schemas.keys import Tag
from ...schemas.tenants import DEFAULT, TenantPolicy, read_policies
from ..operations import Operations
from ..steps import Read, Steps
from .overview import Facts

MINUTE_MS = 60_000


class RateLeft(Facts):
    """How much of a tenant's rate is left for one model, as an estimate: others may be using it too.

    Attributes:
        limit: how much is allowed per minute.
        left: how much may be used now.
        full_s: seconds until the whole limit may be used again.
    """

    limit: float
    left: float
    full_s: float


class RatesLeft(Facts):
    """What is left of a tenant's rates for one model; None if there is no limit.

    Attributes:
        requests: jobs.
        tokens: prompt tokens and `max_tokens`.
    """

    requests: RateLeft | None = None
    tokens: RateLeft | None = None


def read_rates(operations: Operations, tenant: str, model: str) -> Steps[RatesLeft]:
    """What is left of the tenant's rates for the model."""
    settings = operations.settings
    tags = [Tag(model, partition, settings.namespace) for partition in range(settings.partitions)]
    names = (tenant, DEFAULT)
    policies, *used = yield from operations.send(
        Read(
            (
                ("HMGET", keys.tenants(settings.namespace), *names),
                *(("HMGET", tag.rate(tenant), "requests", "tokens") for tag in tags),
            )
        )
    )
    known = read_policies(
        {name.encode(): record for name, record in zip(names, policies, strict=True) if record is not None}
    )
    policy = known.get(tenant) or known.get(DEFAULT) or TenantPolicy()
    # This machine's clock: an estimate for a header is not worth a round trip for Redis's.
    now_ms = time.time() * 1000
    return RatesLeft(
        requests=_left(policy.requests_per_minute, [row[0] for row in used], now_ms),
        tokens=_left(policy.tokens_per_minute, [row[1] for row in used], now_ms),
    )


def _left(limit: float | None, paid_at: list[bytes | None], now_ms: float) -> RateLeft | None:
    """When each partition's share will have been paid off."""
    if limit is None:
        return None
    # What `enqueue.lua` keeps is when all that was taken so far will have been paid for.
    owed_ms = [max(0.0, float(at) - now_ms) if at is not None else 0.0 for at in paid_at]
    share = limit / len(owed_ms)
    left = sum(share * max(0.0, 1 - owed / MINUTE_MS) for owed in owed_ms)
    return RateLeft(limit=limit, left=left, full_s=max(owed_ms) / 1000)
