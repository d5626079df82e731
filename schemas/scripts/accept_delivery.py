"""Make a webhook delivery of an outbox entry."""

from ..keys import Tag
from ..redis.call import Call, script, text
from ..webhooks.delivery import PER_ENDPOINT, delivery_id, endpoint_id


def accept_delivery(
    tag: Tag,
    entry_id: str,
    *,
    job_id: str,
    event: str,
    tenant: str,
    url: str,
    body: str,
    secret: str,
    retention_s: float,
    keep_entry: bool = False,
) -> Call[bool]:
    """Store a delivery and drop its outbox entry; False if it had been stored before.

    Args:
        tag: the queue.
        entry_id: the outbox entry.
        job_id: the job that it is about.
        event: the job's event.
        tenant: the tenant that owns the job.
        url: where to send it.
        body: what to send, the same at each attempt.
        secret: the job's own secret; empty if its tenant's sign.
        retention_s: how long the delivery is kept, counted again from a replay.
        keep_entry: keep the entry, because more follows from it.
    """

    def parse(reply: bytes | str) -> bool:
        return text(reply) == "ok"

    fields = {"job_id": job_id, "event": event, "tenant": tenant, "url": url, "body": body, "secret": secret}
    return script("accept_delivery").call(
        tag.base,
        parse,
        *(part for field in fields.items() for part in field),
        entry=entry_id,
        # From the ids alone: an entry that is relayed twice makes one delivery.
        id=delivery_id(job_id, entry_id),
        endpoint=endpoint_id(tenant, url),
        retention_ms=round(retention_s * 1000),
        per_endpoint=PER_ENDPOINT,
        keep_entry=int(keep_entry),
    )
