"""`headrace models` and `workers`."""

from typing import Annotated

import typer

from ..client import Client
from .options import AsJson, RedisUrl, show


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    served = typer.Typer(invoke_without_command=True, callback=models)
    served.command("forget")(forget)
    app.add_typer(served, name="models")
    group = typer.Typer(invoke_without_command=True, callback=workers)
    group.command("drain")(drain)
    app.add_typer(group, name="workers")


def models(context: typer.Context, redis: RedisUrl = None, as_json: AsJson = False) -> None:
    """List the models that have been served here and how many workers serve each now, or forget one."""
    if context.invoked_subcommand is not None:
        return
    columns = {
        "id": "MODEL",
        "workers": "WORKERS",
        "ready": "READY",
        "context_tokens": "CONTEXT",
        "parameters": "PARAMETERS",
        "dtype": "DTYPE",
    }
    with Client.from_env(redis) as client:
        show(client.admin.models(), columns, "no worker has served a model here yet", as_json=as_json)


def forget(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="The model's name.")], redis: RedisUrl = None
) -> None:
    """Remove a model that nobody serves any more from the list; jobs for it are then refused."""
    with Client.from_env(redis) as client:
        client.admin.forget_model(model)
    typer.echo(f"{model} is forgotten; a worker that serves it adds it again")


def workers(context: typer.Context, redis: RedisUrl = None, as_json: AsJson = False) -> None:
    """List the engine processes heard from in the last minute, or drain one."""
    if context.invoked_subcommand is not None:
        return
    columns = {
        "id": "WORKER",
        "model": "MODEL",
        "running": "RUNNING",
        "waiting": "WAITING",
        "pages_free": "FREE PAGES",
        "pages_total": "PAGES",
        "fingerprint": "FINGERPRINT",
    }
    with Client.from_env(redis) as client:
        show(client.admin.workers(), columns, "no workers", as_json=as_json)


def drain(
    worker_id: Annotated[str, typer.Argument(metavar="ID", help="The worker's id, or the beginning of it.")],
    redis: RedisUrl = None,
    finish_s: Annotated[
        float,
        typer.Option(min=0, max=86_400, help="Let running jobs finish for up to this many seconds first."),
    ] = 0.0,
) -> None:
    """Have a worker hand over its jobs with their progress, then exit. Its host doesn't start it again."""
    with Client.from_env(redis) as client:
        worker = client.admin.drain_worker(worker_id, finish_s=finish_s)
    typer.echo(f"{worker.id} hands over its {worker.running + worker.waiting} jobs")
