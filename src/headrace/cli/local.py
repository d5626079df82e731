"""`headrace up` and `headrace demo`: everything on one machine."""

import shlex
import shutil
import socket
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..producers.cli.options import RedisUrl

if TYPE_CHECKING:
    from ..local.stack import Stack

GATEWAY_PORT = 8000
BACKLOG = 2048

GATEWAYS = 2
"""How many the demo runs: one is killed, and its stream resumes at the other."""

_POLL_S = 0.2


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.command("up", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(up)
    app.command("demo")(demo)


def demo(redis: RedisUrl = None) -> None:
    """Start everything, run jobs, kill an engine and a gateway, and show what was lost: nothing."""
    from ..local.demo import demo as tour

    with ExitStack() as sockets:
        gateways = [sockets.enter_context(gateway_socket(0)) for _ in range(GATEWAYS * has_gateway())]
        _run(lambda: tour(redis, flower_port(), gateways))
    typer.echo(f"Next, keep Redis and a worker running, and enqueue a job of your own:\n  {command()} up")


def up(
    context: typer.Context,
    redis: RedisUrl = None,
    model: Annotated[str, typer.Option(help="Hub name, local folder or `demo`.")] = "demo",
    engines: Annotated[int, typer.Option(min=1, help="Number of engine processes.")] = 1,
    data: Annotated[Path, typer.Option(help="Folder for the embedded Redis's data and the logs.")] = Path(
        ".headrace"
    ),
    port: Annotated[
        int | None,
        typer.Option(
            min=1, max=65535, help="Port of the embedded Redis; by default 6379, or one kept in --data."
        ),
    ] = None,
    gateway: Annotated[
        int | None,
        typer.Option(
            "--gateway-port",
            min=1,
            max=65535,
            help="The gateway's port on 127.0.0.1; by default 8000, or a free one.",
        ),
    ] = None,
    flower: Annotated[
        int | None, typer.Option("--flower-port", help="Flower's port on 127.0.0.1; by default a free one.")
    ] = None,
) -> None:
    """Run Redis (embedded, unless --redis is given), a worker, callbacks, a gateway and Flower until Ctrl-C.

    The gateway and Flower run if they are installed. All other options are passed on to `headrace worker`.
    """
    if redis is not None and port is not None:
        raise typer.BadParameter("--port is for the embedded Redis, which doesn't run with --redis")
    worker_args = ["--model", model, *context.args]
    with suppress(KeyboardInterrupt), ExitStack() as sockets:
        gateways = [sockets.enter_context(gateway_socket(gateway))] if gateway or has_gateway() else []
        flower = flower or flower_port()
        _run(lambda: _keep_up(data, redis, port, worker_args, engines, gateways, flower))


def has_gateway() -> bool:
    """Whether the gateway is installed."""
    return all(find_spec(name) is not None for name in ("fastapi", "uvicorn", "uvloop", "httptools"))


def gateway_socket(port: int | None = None) -> socket.socket:
    """A socket for a gateway that listens on loopback: on this port, else on the usual one, else on any.

    It listens before the gateway runs, so whatever starts meanwhile takes another port.

    Raises:
        StackError: another program listens on the port that was asked for.
    """
    from ..schemas.errors import StackError

    for candidate in (GATEWAY_PORT, 0) if port is None else (port,):
        with suppress(OSError):
            return socket.create_server(("127.0.0.1", candidate), backlog=BACKLOG)
    raise StackError(
        f"--gateway-port {port}: another program listens on 127.0.0.1:{port}; choose another port"
    )


def flower_port() -> int | None:
    """A free port for Flower, or None if Flower isn't installed."""
    if find_spec("flower") is None:
        return None
    from ..local.embedded_redis.ports import free_port

    return free_port()


def command(*, anywhere: bool = False) -> str:
    """How to call `headrace` in this shell or, with `anywhere`, in one without an active environment."""
    beside = Path(sys.executable).parent / "headrace"
    found = shutil.which("headrace")
    if found is not None and Path(found).resolve() == beside.resolve():
        by_activation = Path(found) == beside and sys.prefix != sys.base_prefix
        if not (anywhere and by_activation):
            return "headrace"
    if not anywhere and beside.is_relative_to(Path.cwd()):
        beside = beside.relative_to(Path.cwd())
    return shlex.quote(str(beside))


def _keep_up(
    folder: Path,
    redis_url: str | None,
    port: int | None,
    worker_args: list[str],
    engines: int,
    gateways: list[socket.socket],
    flower: int | None,
) -> None:
    """Keep a stack running until interrupted.

    Raises:
        StackError: it could not be started, or a part of it ended.
        KeyboardInterrupt: on SIGINT or SIGTERM, after everything has stopped.
    """
    from ..local.embedded_redis.ports import is_free, keep_port, preferred_port
    from ..local.stack import stack
    from ..producers.client import Client
    from ..schemas.errors import EmbeddedRedisError

    if port is not None and not is_free(port):
        raise EmbeddedRedisError(
            f"--port {port}: another program listens on 127.0.0.1:{port}; choose another port"
        )
    typer.echo("Starting ... (the first start compiles kernels for this CPU, which takes a minute or two)")
    with (
        stack(
            folder,
            redis_url=redis_url,
            port=port,
            preferred_port=preferred_port(folder),
            worker_args=worker_args,
            engines=engines,
            callbacks_args=[],
            gateways=gateways,
            flower_port=flower,
        ) as running,
        Client.from_env(running.redis_url) as client,
    ):
        if running.redis is not None and port is None:
            keep_port(folder, running.redis.port)
        running.wait_ready(client)
        _show_the_next_step(running, {worker.model for worker in client.workers()})
        while True:
            running.check()
            time.sleep(_POLL_S)


def _show_the_next_step(running: "Stack", models: set[str]) -> None:
    """Print where everything is, and what to paste into another terminal."""
    from ..local.stack import callbacks_metrics_port
    from ..schemas.redis.connection import shown_url

    url = shown_url(running.redis_url)
    typer.echo(f"ready: {', '.join(sorted(models))} on {url}\n\nIn another terminal:\n")
    typer.echo(f"  export HEADRACE_REDIS_URL={shlex.quote(url)}")
    if running.gateway_url is not None:
        typer.echo(f"  export OPENAI_BASE_URL={running.gateway_url} OPENAI_API_KEY=none")
    typer.echo(
        f'  {command(anywhere=True)} enqueue "A dictionary is" --model {shlex.quote(min(models))} --follow\n'
    )
    if url != running.redis_url:
        typer.echo("with the password in place of ***")
    if running.gateway_url is not None:
        typer.echo(f"OpenAI's API: {running.gateway_url}, for everyone on this machine, without a key")
        typer.echo(f"console: {running.gateway_url.removesuffix('/v1')}/console")
    if (port := callbacks_metrics_port()) is not None:
        more = "" if running.gateway_url is None else f", gateway on port {port + 1}"
        typer.echo(f"metrics: worker on port {port - 1}, callbacks on port {port}{more}")
    if running.flower_url is not None:
        typer.echo(f"Flower: {running.flower_url}")
    typer.echo(f"logs: {running.folder}; Ctrl-C stops everything")


def _run(start: Callable[[], None]) -> None:
    from .interrupts import raise_interrupts

    raise_interrupts()  # whereupon everything that was started is stopped
    start()
