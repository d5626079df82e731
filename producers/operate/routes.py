"""Model aliases: what operators set, and the choice that gateways make for a request."""

import hashlib
from collections.abc import Iterable, Mapping

from ...schemas import keys, scripts
from ...schemas.errors import BadPolicy
from ...schemas.routes import MOST_ALIASES, ModelRoute, Routed, check_alias, read_routes
from ..operations import Operations
from ..steps import Read, Steps, Write

CHOICE_S = 60.0
"""How long a choice is kept for a job that hasn't been accepted yet."""


def list_routes(operations: Operations) -> Steps[dict[str, ModelRoute]]:
    """The aliases, by name."""
    (records,) = yield from operations.send(Read((("HGETALL", keys.routes(operations.settings.namespace)),)))
    return read_routes(records)


def set_route(operations: Operations, alias: str, targets: Mapping[str, int]) -> Steps[ModelRoute]:
    """Set an alias, for every gateway at once.

    Raises:
        BadPolicy: a name or a weight is wrong, a target is another alias or this alias is another's target,
            or there are too many aliases.
    """
    route = ModelRoute.make(alias, targets)
    yield from operations.send(scripts.set_route(route, MOST_ALIASES, operations.settings.namespace))
    return route


def drop_route(operations: Operations, alias: str) -> Steps[None]:
    """Delete an alias, for every gateway at once.

    Raises:
        BadPolicy: there is no such alias.
    """
    check_alias(alias)
    name = keys.routes(operations.settings.namespace)
    (record,) = yield from operations.send(Read((("HGET", name, alias),)))
    if record is None:
        raise BadPolicy(f"no alias {alias!r}; see `headrace routes list`")
    yield from operations.send(Write((("HDEL", name, alias),)))


def routed_model(
    operations: Operations, model: str, who: str | None, tenant: str, idempotency_key: str | None
) -> Steps[Routed]:
    """The model that answers a request for `model`; see `Admin.routed_model`."""
    namespace = operations.settings.namespace
    commands: list[tuple[str | int, ...]] = [("HGET", keys.routes(namespace), model)]
    if idempotency_key is None:
        (record,) = yield from operations.send(Read(commands))
        route = ModelRoute.read(record)
        return Routed(model if route is None else route.choose(who))
    kept = keys.routed(_digest(f"{model}\n{tenant}\n{idempotency_key}"), namespace)
    record, earlier = yield from operations.send(Read([*commands, ("GET", kept)]))
    if earlier is not None:
        return Routed(earlier.decode(), kept)
    route = ModelRoute.read(record)
    if route is None:
        return Routed(model)
    before = yield from _enqueued_before(operations, (model, *route.targets), tenant, idempotency_key)
    # Kept before the job is made: the same request, sent again, must find that job and not another model. For
    # no longer than making it may take, as it may be refused; `keep_routed` follows if it isn't.
    ttl_ms = round(1000 * min(CHOICE_S, operations.settings.idempotency_s))
    chosen = before or route.choose(who)
    commands = [("SET", kept, chosen, "NX", "PX", ttl_ms), ("GET", kept)]
    _, first = yield from operations.send(Write(commands))
    return Routed(chosen if first is None else first.decode(), kept)


def keep_routed(operations: Operations, routed: Routed) -> Steps[None]:
    """Keep a choice as long as the key of the job that was just accepted; see `Admin.keep_routed`."""
    if routed.kept is not None:
        ttl_ms = round(1000 * operations.settings.idempotency_s)
        yield from operations.send(Write((("SET", routed.kept, routed.model, "PX", ttl_ms),)))


def _enqueued_before(
    operations: Operations, models: Iterable[str], tenant: str, idempotency_key: str
) -> Steps[str | None]:
    """The first of `models` that has a job of this key: of before the alias, or of another name."""
    # A request with several prompts has numbered keys.
    wanted = [(model, key) for model in models for key in (idempotency_key, f"{idempotency_key}#0")]
    found = yield from operations.send(
        Read([("GET", operations.idem(model, tenant, key)) for model, key in wanted])
    )
    return next((model for (model, _), job in zip(wanted, found, strict=True) if job is not None), None)


def _digest(request: str) -> str:
    return hashlib.blake2b(request.encode(errors="replace"), digest_size=16).hexdigest()
