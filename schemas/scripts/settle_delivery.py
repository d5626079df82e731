"""Record the outcome of an attempt to deliver a webhook."""

from ..redis.call import Call, script, text
from ..webhooks.delivery import PER_ENDPOINT, DeliveryAttempt, DeliveryState
from .claim_deliveries import DueDelivery


def settle_delivery(
    due: DueDelivery,
    state: DeliveryState,
    attempt: DeliveryAttempt,
    retention_s: float,
    *,
    delay_s: float = 0.0,
) -> Call[bool]:
    """Record an attempt: `pending` is retried after `delay_s`, `disabled` means that the endpoint is gone.

    Returns False if the attempt took too long, so that the delivery belongs to another sender.
    """

    def parse(reply: bytes | str) -> bool:
        return text(reply) == "ok"

    return script("settle_delivery").call(
        due.tag.base,
        parse,
        id=due.id,
        fence=due.fence,
        state=state.value,
        delay_ms=round(delay_s * 1000),
        # The script adds `at_ms`, by Redis's clock.
        attempt=attempt.model_dump_json(exclude={"at_ms"}, exclude_none=True),
        gone=int(state is DeliveryState.DISABLED),
        retention_ms=round(retention_s * 1000),
        per_endpoint=PER_ENDPOINT,
    )
