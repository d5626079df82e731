"""Model aliases, as operators set them. How producers follow them is in `routing`.

The aliases are in one hash. In every queue that an alias hides, and in those that a model of its name would
have, a mark tells the script that accepts jobs to look there. A mark without an alias only costs its jobs a
round trip, so marks are set first and removed last.
"""

from collections.abc import Mapping

from ...schemas import keys, scripts
from ...schemas.errors import BadPolicy
from ...schemas.keys import Tag
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
    (adapter,) = yield from operations.send(
        Read((("HGET", keys.adapters(operations.settings.namespace), alias),))
    )
    if adapter is not None:
        raise BadPolicy(f"alias = {alias!r}: is an adapter; drop that first, or give the alias another name")
    marks = Write([("SET", mark, 1) for mark in route_marks(operations, alias)])
    yield from operations.send(marks)
    yield from operations.send(scripts.set_route(route, MOST_ALIASES, operations.settings.namespace))
    # Again: it may have been dropped in between, with its marks.
    yield from operations.send(marks)
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
    marks = route_marks(operations, alias)
    yield from operations.send(Write([("DEL", mark) for mark in marks]))
    (again,) = yield from operations.send(Read((("HGET", name, alias),)))
    if again is not None:  # somebody has just set it
        yield from operations.send(Write([("SET", mark, 1) for mark in marks]))


def route_marks(operations: Operations, alias: str) -> list[str]:
    """The keys that tell the script that accepts jobs that this name is no model's."""
    settings = operations.settings
    return [Tag(alias, partition, settings.namespace).alias for partition in range(settings.partitions)]
