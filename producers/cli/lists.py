"""`headrace models`, `queues` and `workers`."""

import typer

from ..client import Client
from .options import AsJson, RedisUrl, show


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.command("models")(models)
    app.command("queues")(queues)
    app.command("workers")(workers)


def models(redis: RedisUrl = None, as_json: AsJson = False) -> None:
    """List the models that workers have served here."""
    columns = {"id": "MODEL", "context_tokens": "CONTEXT", "parameters": "PARAMETERS", "dtype": "DTYPE"}
    with Client.from_env(redis) as client:
        show(client.models(), columns, "no worker has served a model here yet", as_json=as_json)


def queues(redis: RedisUrl = None, as_json: AsJson = False) -> None:
    """List the queues with waiting or running jobs."""
    columns = {
        "model": "MODEL",
        "job_class": "CLASS",
        "tenant": "TENANT",
        "depth": "WAITING",
        "bytes": "BYTES",
        "running": "RUNNING",
    }
    with Client.from_env(redis) as client:
        show(client.queues(), columns, "no jobs are waiting or running", as_json=as_json)


def workers(redis: RedisUrl = None, as_json: AsJson = False) -> None:
    """List the engine processes heard of within the last minute."""
    columns = {
        "id": "WORKER",
        "model": "MODEL",
        "running": "RUNNING",
        "waiting": "WAITING",
        "pages_free": "FREE PAGES",
        "pages_total": "PAGES",
    }
    with Client.from_env(redis) as client:
        show(client.workers(), columns, "no workers", as_json=as_json)
