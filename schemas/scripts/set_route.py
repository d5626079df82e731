"""Set a model alias."""

from typing import Any

from .. import keys
from ..errors import BadPolicy
from ..redis.call import Call, script, text
from ..routes import ModelRoute


def set_route(route: ModelRoute, most_aliases: int, namespace: str = keys.NAMESPACE) -> Call[None]:
    """Set the alias, in one step with what is checked, since several operators may set aliases at once.

    Raises:
        BadPolicy: a target is an alias itself, this alias is a target of another, or there are too many.
    """

    def parse(reply: list[Any]) -> None:
        status, name = map(text, reply)
        if status == "target":
            raise BadPolicy(f"targets: {name!r} is an alias itself; name the models that it stands for")
        if status == "alias":
            raise BadPolicy(f"alias: {route.alias!r} is a target of the alias {name!r}; choose another name")
        if status == "full":
            raise BadPolicy(f"alias: there are {most_aliases} aliases already; remove one")

    return script("set_route").call(
        keys.routes(namespace),
        parse,
        *route.targets,
        alias=route.alias,
        record=route.to_wire(),
        most=most_aliases,
    )
