"""`headrace keys`."""

import json
from typing import Annotated

import typer
from pydantic import BaseModel

from ...schemas.job import JobClass
from ..client import Client
from .options import AsJson, RedisUrl, refusals, show

_COLUMNS = {
    "id": "ID",
    "tenant": "TENANT",
    "name": "NAME",
    "models": "MODELS",
    "classes": "CLASSES",
    "expires_ms": "EXPIRES",
    "used_ms": "LAST USED",
    "operator": "OPERATOR",
}

_DAY_S = 86_400.0


class _ListedKey(BaseModel):
    id: str
    tenant: str
    name: str
    models: str
    classes: str
    expires_ms: str
    used_ms: str
    operator: str


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    group = typer.Typer(help="API keys of the gateway.", no_args_is_help=True)
    group.command("create")(create)
    group.command("list")(list_keys)
    group.command("revoke")(revoke)
    app.add_typer(group, name="keys")


def create(
    tenant: Annotated[str, typer.Option(help="The tenant whose jobs the key reaches.")],
    redis: RedisUrl = None,
    name: Annotated[str, typer.Option(help="What the key is for.")] = "",
    model: Annotated[
        list[str] | None, typer.Option(help="A model that it may use; repeatable. By default all.")
    ] = None,
    job_class: Annotated[
        list[JobClass] | None,
        typer.Option("--class", help="A job class that it may use; repeatable. By default all."),
    ] = None,
    webhook_host: Annotated[
        list[str] | None,
        typer.Option(help="A host that its webhooks may go to; repeatable. By default all."),
    ] = None,
    expires_days: Annotated[
        float | None, typer.Option(help="Days until it expires; by default never.")
    ] = None,
    operator: Annotated[bool, typer.Option("--operator", help="Allow it to open the console.")] = False,
    as_json: AsJson = False,
) -> None:
    """Make an API key and print it. It can't be shown again."""
    with Client.from_env(redis) as client, refusals():
        made = client.admin.create_api_key(
            tenant,
            name=name,
            models=model or None,
            classes=job_class or None,
            webhook_hosts=webhook_host or None,
            expires_s=None if expires_days is None else expires_days * _DAY_S,
            operator=operator,
        )
    key = made.key.get_secret_value()
    shown = made.model_dump(mode="json", exclude_none=True) | {"key": key}
    typer.echo(json.dumps(shown, indent=2) if as_json else key)


def list_keys(redis: RedisUrl = None, as_json: AsJson = False) -> None:
    """List the API keys, without their secrets."""
    with Client.from_env(redis) as client:
        found = client.admin.api_keys()
    rows: list[BaseModel] = list(found)
    if not as_json:
        rows = [
            _ListedKey(
                id=key.id,
                tenant=key.tenant,
                name=key.name,
                models=" ".join(key.models or ("all",)),
                classes=" ".join(key.classes or ("all",)),
                expires_ms=_moment(key.expires_ms),
                used_ms=_moment(key.used_ms),
                operator="yes" if key.operator else "",
            )
            for key in found
        ]
    show(rows, _COLUMNS, "there are no API keys; make one with headrace keys create", as_json=as_json)


def revoke(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="The key's id, as listed.")],
    redis: RedisUrl = None,
) -> None:
    """Revoke an API key, for every gateway at once."""
    with Client.from_env(redis) as client, refusals():
        revoked = client.admin.revoke_api_key(key_id)
    typer.echo(f"{revoked.id} of {revoked.tenant} is revoked")


def _moment(ms: int | None) -> str:
    from .words import moment

    return "never" if ms is None else moment(ms)
