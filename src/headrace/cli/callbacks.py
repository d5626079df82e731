"""`headrace callbacks`."""

import os
from typing import Annotated, Any

import typer

from ..producers.cli.options import RedisUrl
from .options import LogLevel, MetricsHost, MetricsPort


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("callbacks")(callbacks)


def callbacks(
    redis: RedisUrl = None,
    app: Annotated[
        str | None, typer.Option(help="The Celery app whose tasks are completed, as module:name.")
    ] = None,
    callbacks_queue: Annotated[
        str | None, typer.Option("--queue", help="The Celery queue of generations sent by name.")
    ] = None,
    webhook_allow: Annotated[
        str | None,
        typer.Option(help="Private receivers to allow: hosts, host:port or networks, comma-separated."),
    ] = None,
    webhook_timeout_s: Annotated[
        float | None, typer.Option(help="Seconds that a receiver has for its whole answer.")
    ] = None,
    webhook_concurrency: Annotated[
        int | None, typer.Option(help="Maximum number of attempts in flight.")
    ] = None,
    webhook_retention_s: Annotated[
        float | None, typer.Option(help="Seconds that a delivery is kept.")
    ] = None,
    metrics_port: MetricsPort = None,
    metrics_host: MetricsHost = None,
    log_level: LogLevel = None,
) -> None:
    """Deliver webhooks, complete Celery tasks and do the queues' upkeep: a Celery worker without a GPU.

    Run one or more. Settings not given here come from HEADRACE_* variables, then from headrace.toml.
    """
    flags: dict[str, Any] = dict(locals())
    flags["redis_url"] = flags.pop("redis")
    raise typer.Exit(_run(flags))


def _run(flags: dict[str, Any]) -> int:
    from ..schemas.errors import BadSetting, BrokerUnavailable

    try:
        from celery.app.utils import find_app

        from ..workers.callbacks.run import run
        from ..workers.settings import CallbacksSettings
    except ModuleNotFoundError as error:
        hint = "pip install 'headrace[callbacks]'"
        typer.echo(f"headrace callbacks: {error.name} is missing; {hint}", err=True)
        return 2
    try:
        settings = CallbacksSettings.load(**flags)
        # For the app's `generate`, and for headrace's own app: neither has seen the flags.
        os.environ["HEADRACE_REDIS_URL"] = settings.redis_url
        return run(settings, _app(settings.app, find_app))
    except (BadSetting, BrokerUnavailable) as error:
        typer.echo(f"headrace callbacks: {error}", err=True)
        return 2


def _app(name: str, find_app: Any) -> Any:
    """The Celery app called `module:name`, with `generate` among its tasks."""
    from ..schemas.errors import BadSetting

    try:
        found = find_app(name)
    except (ImportError, AttributeError) as error:
        way_out = "name it as module:name, and run this in the project's folder or install the project"
        raise BadSetting(f"setting app = {name!r}: no such Celery app ({error}); {way_out}") from None
    from ..producers.celery.task import generate

    found.finalize()
    if generate.name not in found.tasks:
        raise BadSetting(f"setting app = {name!r}: it has no task {generate.name}")
    return found
