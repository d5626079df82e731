"""`headrace gateway`."""

from typing import Annotated, Any

import typer

from ..producers.cli.options import RedisUrl
from .options import LogLevel, MetricsHost, MetricsPort


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("gateway")(gateway)


def gateway(
    redis: RedisUrl = None,
    gateway_host: Annotated[str | None, typer.Option("--host", help="Address to listen on.")] = None,
    gateway_port: Annotated[
        int | None, typer.Option("--port", help="Port to listen on; 0 picks a free one.")
    ] = None,
    fd: Annotated[
        int | None,
        typer.Option(
            "--fd", min=0, help="Serve on this inherited socket, which listens, instead of --host and --port."
        ),
    ] = None,
    no_auth: Annotated[
        bool, typer.Option("--no-auth", help="Require no API keys; only on a loopback address.")
    ] = False,
    metrics_port: MetricsPort = None,
    metrics_host: MetricsHost = None,
    log_level: LogLevel = None,
) -> None:
    """Serve OpenAI's HTTP API over the queue. The process has no state: run as many as you like.

    Settings not given here come from HEADRACE_* variables, then from headrace.toml.
    """
    flags: dict[str, Any] = dict(locals())
    if flags.pop("fd") is not None and (gateway_host is not None or gateway_port is not None):
        raise typer.BadParameter("--fd is a socket that listens already; leave --host and --port out")
    flags["redis_url"] = flags.pop("redis")
    flags["gateway_auth"] = False if flags.pop("no_auth") else None
    raise typer.Exit(_run(flags, fd))


def _run(flags: dict[str, Any], fd: int | None) -> int:
    from ..schemas.errors import BadSetting, BrokerUnavailable

    try:
        from ..producers.gateway.server import run
    except ModuleNotFoundError as error:
        hint = "pip install 'headrace[gateway]'"
        typer.echo(f"headrace gateway: {error.name} is missing; {hint}", err=True)
        return 2
    from ..schemas.settings.gateway import GatewaySettings

    try:
        return run(GatewaySettings.load(**flags), fd)
    except (BadSetting, BrokerUnavailable) as error:
        typer.echo(f"headrace gateway: {error}", err=True)
        return 2
