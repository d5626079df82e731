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
    """Keep what is to be sent, and drop the outbox entry with it; False where it was kept before.

    Args:
        tag: the queue.
        entry_id: the outbox entry.
        job_id: the job it tells of.
        event: what of it.
        tenant: whose job it is.
        url: where to send it.
        body: what to send, the same at each attempt.
        secret: the job's own; empty when its tenant's sign.
        retention_s: how long the delivery is kept, and again when it is replayed.
        keep_entry: the entry stays: more follows from it.
    """

    def parse(reply: bytes | str) -> bool:
        return text(reply) == "ok"

    fields = {"job_id": job_id, "event": event, "tenant": tenant, "url": url, "body": body, "secret": secret}
    return script("accept_delivery").call(
        tag.base,
        parse,
        *(part for field in fields.items() for part in field),
        entry=entry_id,
        id=delivery_id(job_id, entry_id),
        endpoint=endpoint_id(tenant, url),
        retention_ms=round(retention_s * 1000),
        per_endpoint=PER_ENDPOINT,
        keep_entry=int(keep_entry),
    )
