"""Model aliases: what operators set, and the choice that gateways make for a request."""

import hashlib
from collections.abc import Mapping

from ...schemas import keys
from ...schemas.errors import BadPolicy
from ...schemas.routes import MOST_ALIASES, ModelRoute, check_alias, read_routes
from ..operations import Operations
from ..steps import Read, Steps, Write


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
    others = {name: each for name, each in (yield from list_routes(operations)).items() if name != alias}
    for target in targets:
        if target in others:
            raise BadPolicy(f"targets: {target!r} is an alias itself; name the models that it stands for")
    for each in others.values():
        if alias in each.targets:
            raise BadPolicy(f"alias: {alias!r} is a target of the alias {each.alias!r}; choose another name")
    if len(others) >= MOST_ALIASES:
        raise BadPolicy(f"alias: there are {MOST_ALIASES} aliases already; remove one")
    yield from operations.send(
        Write((("HSET", keys.routes(operations.settings.namespace), alias, route.to_wire()),))
    )
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


def routed_model(operations: Operations, model: str, who: str | None, request: str | None) -> Steps[str]:
    """The model that answers a request for `model`; see `Admin.routed_model`."""
    namespace = operations.settings.namespace
    commands: list[tuple[str | int, ...]] = [("HGET", keys.routes(namespace), model)]
    kept = keys.routed(_digest(f"{model}\n{request}"), namespace)
    if request is not None:
        commands.append(("GET", kept))
    record, *earlier = yield from operations.send(Read(commands))
    if earlier and earlier[0] is not None:
        return str(earlier[0].decode())
    route = ModelRoute.read(record)
    if route is None:
        return model
    chosen = route.choose(who)
    if request is None:
        return chosen
    # Kept before the job is made: the same request, sent again, must find that job and not another model.
    ttl_ms = round(1000 * operations.settings.idempotency_s)
    commands = [("SET", kept, chosen, "NX", "PX", ttl_ms), ("GET", kept)]
    _, chosen_first = yield from operations.send(Write(commands))
    return chosen if chosen_first is None else str(chosen_first.decode())


def _digest(request: str) -> str:
    return hashlib.blake2b(request.encode(errors="replace"), digest_size=16).hexdigest()
