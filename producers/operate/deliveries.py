"""Webhook deliveries as an operator sees them."""

from collections.abc import Mapping
from contextlib import suppress

from ...schemas.errors import BadSetting, DeliveryNotFound
from ...schemas.keys import BatchKeys, DeliveryKeys
from ...schemas.scripts import replay_delivery
from ...schemas.webhooks.delivery import Delivery, DeliveryState
from ..operations import Operations
from ..steps import Read, Steps, check_name
from .overview import model_tags

PAGE = 500
"""Number of deliveries read from one queue in one round trip."""

_SHOWN = tuple(name for name in Delivery.model_fields if name not in {"id", "next_ms"})
_NAMES = tuple(name.encode() for name in _SHOWN)


def list_deliveries(
    operations: Operations, *, state: DeliveryState | str | None = None, limit: int = 100
) -> Steps[list[Delivery]]:
    """The newest deliveries of all models and batches, at most `limit`, newest first.

    With a `state`, only those in it.

    Raises:
        BadSetting: there is no such state.
    """
    wanted = _state(state)
    found: list[Delivery] = []
    for tag in (yield from _queues(operations)):
        found += yield from _newest(operations, tag, wanted, limit)
    return sorted(found, key=lambda delivery: delivery.created_ms, reverse=True)[:limit]


def _queues(operations: Operations) -> Steps[list[DeliveryKeys]]:
    return [*(yield from model_tags(operations)), BatchKeys(operations.settings.namespace)]


def _state(name: str | None) -> DeliveryState | None:
    try:
        return None if name is None else DeliveryState(name)
    except ValueError:
        raise BadSetting(f"state = {name!r}: must be one of {', '.join(DeliveryState)}") from None


def _newest(
    operations: Operations, tag: DeliveryKeys, state: DeliveryState | None, limit: int
) -> Steps[list[Delivery]]:
    found: list[Delivery] = []
    start = 0
    while len(found) < limit:
        (ids,) = yield from operations.send(Read((("ZREVRANGE", tag.deliveries, start, start + PAGE - 1),)))
        if not ids:
            break
        commands = [("HMGET", tag.delivery(id_.decode()), *_SHOWN) for id_ in ids]  # not the bodies
        rows = yield from operations.send(Read(commands))
        hashes = [{n: v for n, v in zip(_NAMES, row, strict=True) if v is not None} for row in rows]
        read = [_readable(id_.decode(), fields) for id_, fields in zip(ids, hashes, strict=True)]
        found += [each for each in read if each is not None and state in {None, each.state}]
        # By rank: deliveries accepted meanwhile push the rest back, so one may be listed twice, but none is
        # left out.
        start += PAGE
    return found[:limit]


def find_delivery(operations: Operations, delivery_id: str) -> Steps[Delivery]:
    """One delivery by its `webhook-id`.

    Raises:
        DeliveryNotFound: there is none, or its retention has ended.
    """
    check_name("id", delivery_id)
    # Its id doesn't say which queue it is in, so all are asked, in one round trip.
    tags = yield from _queues(operations)
    hashes = yield from operations.send(Read([("HGETALL", tag.delivery(delivery_id)) for tag in tags]))
    for tag, fields in zip(tags, hashes, strict=True):
        if (found := _readable(delivery_id, fields)) is not None:
            return found.model_copy(update={"next_ms": (yield from _next_ms(operations, tag, found, fields))})
    raise DeliveryNotFound(delivery_id)


def _readable(delivery_id: str, fields: Mapping[bytes, bytes]) -> Delivery | None:
    """The delivery; None if its retention has ended, or its record was damaged."""
    with suppress(LookupError, TypeError, ValueError):
        return Delivery.of(delivery_id, fields) if fields else None
    return None


def _next_ms(
    operations: Operations, tag: DeliveryKeys, delivery: Delivery, fields: Mapping[bytes, bytes]
) -> Steps[int | None]:
    """The earliest time at which a delivery is tried next; None if it is being tried now, or never again."""
    endpoint = fields.get(b"endpoint", b"").decode()
    if delivery.state is not DeliveryState.PENDING or not endpoint:
        return None
    due, under_way, left_alone_until = yield from operations.send(
        Read(
            (
                ("ZSCORE", tag.waiting(endpoint), delivery.id),
                ("ZSCORE", tag.sending(endpoint), delivery.id),
                ("HGET", tag.endpoint(endpoint), "open_until_ms"),
            )
        )
    )
    return (
        None
        if due is None or under_way is not None
        else max(int(float(due)), int(float(left_alone_until or 0)))
    )


def replay(operations: Operations, delivery_id: str) -> Steps[None]:
    """Send it again now, and treat its endpoint as reachable.

    Raises:
        DeliveryNotFound: there is none, or its retention has ended.
    """
    check_name("id", delivery_id)
    for tag in (yield from _queues(operations)):
        replayed: bool = yield from operations.send(replay_delivery(tag, delivery_id))
        if replayed:
            return
    raise DeliveryNotFound(delivery_id)
