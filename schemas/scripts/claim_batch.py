"""Take a batch to run."""

from collections.abc import Collection

from ..keys import BatchKeys
from ..redis.call import Call, script, text


def claim_batch(
    keys: BatchKeys, holder: str, lease_s: float, skipped: Collection[str] = ()
) -> Call[tuple[str, str] | None]:
    """Take a batch that no runner has, for a lease; return its tenant and id, or None if there is none.

    Args:
        keys: the names of its keys.
        holder: a name that is new with each claim: it distinguishes this runner from all others.
        lease_s: how long the lease lasts.
        skipped: tenants whose batches are left to others.
    """

    def parse(reply: bytes | str | None) -> tuple[str, str] | None:
        if not reply:
            return None
        # No tenant's name has a colon.
        tenant, _, batch_id = text(reply).partition(":")
        return tenant, batch_id

    return script("claim_batch").call(
        keys.base, parse, *skipped, holder=holder, lease_ms=round(1000 * lease_s)
    )
