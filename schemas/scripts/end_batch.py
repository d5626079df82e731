"""Record a batch's end, with the webhook about it."""

from ..keys import BatchKeys
from ..redis.call import Call, script, text
from ..webhooks.delivery import PER_ENDPOINT, batch_delivery_id, endpoint_id
from ..webhooks.openai_events import event_body, event_id


def end_batch(
    keys: BatchKeys,
    tenant: str,
    batch_id: str,
    holder: str,
    lease_s: float,
    retention_s: float,
    fields: dict[str, str | int],
    *,
    event: str,
    at_s: int,
    url: str,
    secret: str,
    delivery_s: float,
) -> Call[bool]:
    """Set the fields of a batch that has ended and make its one delivery; False if the lease was lost.

    Args:
        keys: the names of its keys.
        tenant: whose batch it is.
        batch_id: the batch.
        holder: who has its lease.
        lease_s: how long the lease lasts from now.
        retention_s: how long its record is kept.
        fields: the fields to set.
        event: the type of the event.
        at_s: when it ended, in seconds since the epoch.
        url: where to send it.
        secret: signs it; empty if its tenant's secrets do.
        delivery_s: how long the delivery is kept, counted again from a replay.
    """

    def parse(reply: bytes | str) -> bool:
        return text(reply) == "ok"

    delivery = batch_delivery_id(batch_id)
    about = {
        "job_id": batch_id,
        "event": event,
        "tenant": tenant,
        "url": url,
        "body": event_body(event, event_id(delivery), at_s, batch_id),
        "secret": secret,
    }
    pairs = (*about.items(), *fields.items())
    return script("end_batch").call(
        keys.base,
        parse,
        *(part for pair in pairs for part in pair),
        name=f"{tenant}:{batch_id}",
        holder=holder,
        lease_ms=round(1000 * lease_s),
        retention_ms=round(1000 * retention_s),
        delivery=delivery,
        endpoint=endpoint_id(tenant, url),
        delivery_ms=round(1000 * delivery_s),
        per_endpoint=PER_ENDPOINT,
        delivery_count=len(about),
    )
