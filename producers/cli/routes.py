"""`headrace routes`."""

from typing import Annotated

import typer
from pydantic import BaseModel

from ...schemas.errors import BadPolicy
from ..client import Client
from .options import AsJson, RedisUrl, refusals, show

Alias = Annotated[str, typer.Argument(metavar="ALIAS", help="The name that requests ask for.")]

_COLUMNS = {"alias": "ALIAS", "targets": "MODELS"}


class _ListedRoute(BaseModel):
    alias: str
    targets: str


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    group = typer.Typer(help="Model aliases.", no_args_is_help=True)
    group.command("set")(set_route)
    group.command("list")(list_routes)
    group.command("remove")(remove)
    app.add_typer(group, name="routes")


def set_route(
    alias: Alias,
    targets: Annotated[
        list[str],
        typer.Argument(metavar="MODEL[=WEIGHT]...", help="The models, each with its weight; 1 if not given."),
    ],
    redis: RedisUrl = None,
) -> None:
    """Share the requests for an alias out among models, from now on and at every gateway."""
    with Client.from_env(redis) as client, refusals():
        route = client.admin.set_route(alias, _weights(targets))
        served = {model.id for model in client.admin.models() if model.workers}
    for model in route.targets:
        if model not in served:
            typer.echo(f"headrace: no worker serves {model}; requests that get it wait or fail", err=True)
    typer.echo(f"{alias} {_shown(route.targets)}")


def list_routes(redis: RedisUrl = None, as_json: AsJson = False) -> None:
    """List the aliases with their models and weights."""
    with Client.from_env(redis) as client:
        found = list(client.admin.routes().values())
    rows: list[BaseModel] = list(found)
    if not as_json:
        rows = [_ListedRoute(alias=route.alias, targets=_shown(route.targets)) for route in found]
    show(rows, _COLUMNS, "there are no aliases; make one with headrace routes set", as_json=as_json)


def remove(alias: Alias, redis: RedisUrl = None) -> None:
    """Remove an alias. Requests for it are then refused; the jobs that it led to go on."""
    with Client.from_env(redis) as client, refusals():
        client.admin.drop_route(alias)
    typer.echo(f"{alias} is removed")


def _weights(targets: list[str]) -> dict[str, int]:
    """The weights by model.

    Raises:
        BadPolicy: a weight is no whole number, or a model is named twice.
    """
    weights: dict[str, int] = {}
    for target in targets:
        model, given, weight = target.partition("=")
        if model in weights:
            raise BadPolicy(f"{model!r} is named twice")
        if given and not (weight.isascii() and weight.isdecimal() and len(weight) < 10):
            raise BadPolicy(f"{target!r}: give the model's weight as a whole number, as in small=95")
        weights[model] = int(weight) if given else 1
    return weights


def _shown(targets: dict[str, int]) -> str:
    return " ".join(f"{model}={weight}" for model, weight in targets.items())
