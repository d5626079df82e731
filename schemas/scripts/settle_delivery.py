"""Note what became of an attempt to deliver a webhook."""

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
    """Note an attempt; `pending` is tried again after `delay_s`, `disabled` says that the endpoint is gone.

    False: the attempt had taken too long, and the delivery is another's.
    """

    def parse(reply: bytes | str) -> bool:
        return text(reply) == "ok"

    args = (
        due.id,
        due.fence,
        state.value,
        round(delay_s * 1000),
        attempt.model_dump_json(exclude={"at_ms"}, exclude_none=True),
        int(state is DeliveryState.DISABLED),
        round(retention_s * 1000),
        PER_ENDPOINT,
    )
    return Call(script("settle_delivery"), due.tag.base, args, parse)
