"""Take webhook deliveries that are due."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ..keys import DeliveryKeys
from ..redis.call import Call, script, text
from ..webhooks.delivery import PER_ENDPOINT, origin_id


@dataclass(frozen=True, slots=True)
class DueDelivery:
    """A delivery for one attempt.

    Attributes:
        fence: proves that the attempt is ours.
        secret: the job's own secret; empty if its tenant's sign.
        attempts: how many there were before.
    """

    tag: DeliveryKeys
    id: str
    fence: str
    url: str
    tenant: str
    body: bytes = field(repr=False)
    secret: str = field(repr=False)
    attempts: int = 0

    @property
    def origin(self) -> str:
        """The origin whose attempts are limited together."""
        return origin_id(self.url)


class DeliveriesReply(NamedTuple):
    """What to send now, and the ids of deliveries whose retention ended before they were delivered."""

    due: list[DueDelivery]
    expired: list[str]


def claim_deliveries(
    tag: DeliveryKeys,
    limit: int,
    lease_s: float,
    nonce: str,
    under_way: Mapping[str, int] | None = None,
    tenants: Mapping[tuple[str, str], int] | None = None,
) -> Call[DeliveriesReply]:
    """Take at most `limit` deliveries; an attempt not settled within `lease_s` may be made by another sender.

    Args:
        tag: the queue.
        limit: how many more attempts the sender can make at once; shared out by tenant, then by origin.
        lease_s: how long an attempt may take.
        nonce: random, the sender's.
        under_way: the sender's attempts in flight, by origin.
        tenants: the same by tenant and origin.
    """

    def parse(reply: list[list[Any]]) -> DeliveriesReply:
        taken, expired = reply
        due = [
            DueDelivery(
                tag, text(id_), text(fence), _read(url), _read(tenant), body, _read(secret), _count(attempts)
            )
            for id_, fence, url, tenant, body, secret, attempts in taken
        ]
        return DeliveriesReply(due, [text(id_) for id_ in expired])

    by_both = [
        part for (tenant, origin), count in (tenants or {}).items() for part in (tenant, origin, count)
    ]
    by_origin = [part for item in (under_way or {}).items() for part in item]
    return script("claim_deliveries").call(
        tag.base,
        parse,
        # One list holds both; `pair_count` says where the first ends.
        *by_both,
        *by_origin,
        limit=limit,
        lease_ms=round(lease_s * 1000),
        nonce=nonce,
        per_endpoint=PER_ENDPOINT,
        pair_count=len(tenants or ()),
    )


def _read(value: bytes | str) -> str:
    """A text that may have been damaged from outside, in which case sending it is refused."""
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def _count(value: bytes | str) -> int:
    return int(value) if value.isdigit() and len(value) < 10 else 0
