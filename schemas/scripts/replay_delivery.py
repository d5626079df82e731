"""Send a webhook again."""

from ..keys import DeliveryKeys
from ..redis.call import Call, new_request, script, text
from ..webhooks.delivery import PER_ENDPOINT


def replay_delivery(tag: DeliveryKeys, delivery_id: str) -> Call[bool]:
    """Restart a delivery's schedule now, even if its endpoint was unreachable; False if it doesn't exist."""

    def parse(reply: bytes | str) -> bool:
        return text(reply) == "ok"

    return script("replay_delivery").call(
        tag.base, parse, id=delivery_id, per_endpoint=PER_ENDPOINT, request=new_request()
    )
