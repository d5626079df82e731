"""Take webhook deliveries that are due."""

from dataclasses import dataclass, field
from typing import Any

from ..delivery import PER_ENDPOINT
from ..keys import Tag
from .call import Call, script, text


@dataclass(frozen=True, slots=True)
class DueDelivery:
    """A delivery for one attempt.

    Attributes:
        fence: shows that the attempt is ours.
        secret: the job's own; empty when its tenant's sign.
        attempts: how many there were before.
    """

    tag: Tag
    id: str
    fence: str
    url: str
    tenant: str
    body: bytes = field(repr=False)
    secret: str = field(repr=False)
    attempts: int = 0


def claim_deliveries(tag: Tag, limit: int, lease_s: float, nonce: str) -> Call[list[DueDelivery]]:
    """Take at most `limit` deliveries; an attempt not settled within `lease_s` is another's to make."""

    def parse(reply: list[list[Any]]) -> list[DueDelivery]:
        return [
            DueDelivery(
                tag, text(id_), text(fence), text(url), text(tenant), body, text(secret), int(attempts)
            )
            for id_, fence, url, tenant, body, secret, attempts in reply
        ]

    args = (limit, round(lease_s * 1000), nonce, PER_ENDPOINT)
    return Call(script("claim_deliveries"), tag.base, args, parse)
