"""`headrace adapters`."""

from pathlib import Path
from typing import Annotated

import typer

from ..client import Client
from .options import AsJson, RedisUrl, refusals, show

Name = Annotated[str, typer.Argument(metavar="NAME", help="The name that requests ask for.")]

_COLUMNS = {"name": "ADAPTER", "base": "MODEL", "source": "SOURCE", "fingerprint": "FINGERPRINT"}


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    group = typer.Typer(help="LoRA adapters.", no_args_is_help=True)
    group.command("load")(load)
    group.command("list")(list_adapters)
    group.command("drop")(drop)
    app.add_typer(group, name="adapters")


def load(
    name: Name,
    source: Annotated[
        str, typer.Argument(metavar="FOLDER", help="A folder that PEFT saved, or its Hugging Face Hub name.")
    ],
    model: Annotated[
        str | None,
        typer.Option("--model", help="The model that it changes; not needed if only one is served."),
    ] = None,
    fingerprint: Annotated[
        str | None, typer.Option(help="Of its content, if only workers can read the folder.")
    ] = None,
    redis: RedisUrl = None,
) -> None:
    """Let requests ask for an adapter, or replace the one of that name for new requests."""
    folder = str(Path(source).resolve()) if Path(source).is_dir() else source
    with Client.from_env(redis) as client, refusals():
        adapter = client.admin.load_adapter(name, folder, model=model, fingerprint=fingerprint)
    typer.echo(f"{adapter.name} {adapter.base} {adapter.fingerprint}")


def list_adapters(redis: RedisUrl = None, as_json: AsJson = False) -> None:
    """List the adapters with their models and sources."""
    with Client.from_env(redis) as client:
        found = list(client.admin.adapters().values())
    show(found, _COLUMNS, "there are no adapters; add one with headrace adapters load", as_json=as_json)


def drop(name: Name, redis: RedisUrl = None) -> None:
    """Drop an adapter. Requests for it are then refused; jobs that were enqueued before go on."""
    with Client.from_env(redis) as client, refusals():
        client.admin.drop_adapter(name)
    typer.echo(f"{name} is dropped")
