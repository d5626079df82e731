"""`headrace up` and `headrace demo`: everything on one machine."""

import signal
import time
from collections.abc import Callable
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from .producers.cli.options import RedisUrl

_POLL_S = 0.2


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.command("up", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(up)
    app.command("demo")(demo)


def demo(redis: RedisUrl = None) -> None:
    """Start everything, run jobs, kill an engine, show that nothing was lost; ends by itself."""
    from .demo import demo as tour

    _run(lambda: tour(redis, flower_port()))


def up(
    context: typer.Context,
    redis: RedisUrl = None,
    model: Annotated[str, typer.Option(help="Hub name, local folder, or `demo`.")] = "demo",
    engines: Annotated[int, typer.Option(min=1, help="Engine processes.")] = 1,
    data: Annotated[Path, typer.Option(help="Holds the embedded Redis's data and the logs.")] = Path(
        ".headrace"
    ),
    flower: Annotated[
        int | None, typer.Option("--flower-port", help="Flower's port of 127.0.0.1; by default a free one.")
    ] = None,
) -> None:
    """Keep Redis (embedded, unless --redis is given), a worker, callbacks and Flower running until Ctrl-C.

    Flower runs where it is installed. Further options are those of `headrace worker`.
    """
    worker_args = ["--model", model, *context.args]
    with suppress(KeyboardInterrupt):
        _run(lambda: _keep_up(data, redis, worker_args, engines, flower or flower_port()))


def flower_port() -> int | None:
    """A free port for Flower; None where it is not installed."""
    if find_spec("flower") is None:
        return None
    from .workers.embedded_redis.server import free_port

    return free_port()


def _keep_up(
    folder: Path, redis_url: str | None, worker_args: list[str], engines: int, flower: int | None
) -> None:
    """Keep a stack running until interrupted.

    Raises:
        StackError: it could not be started, or a part of it ended.
        KeyboardInterrupt: by SIGINT or SIGTERM, with all of it stopped.
    """
    from .producers.client import Client
    from .schemas.connection import shown_url
    from .stack import stack

    with (
        stack(
            folder,
            redis_url=redis_url,
            worker_args=worker_args,
            engines=engines,
            callbacks_args=[],
            flower_port=flower,
        ) as running,
        Client(running.redis_url) as client,
    ):
        running.wait_ready(client)
        models = ", ".join(model.id for model in client.models())
        typer.echo(f"ready: {models} on {shown_url(running.redis_url)}")
        if running.flower_url is not None:
            typer.echo(f"Flower: {running.flower_url}")
        typer.echo(f"logs: {folder}; Ctrl-C stops everything")
        while True:
            running.check()
            time.sleep(_POLL_S)


def _run(start: Callable[[], None]) -> None:
    from .stack import StackError
    from .workers.embedded_redis import EmbeddedRedisError

    for number in (signal.SIGINT, signal.SIGTERM):  # either way all that was started is stopped
        signal.signal(number, signal.default_int_handler)
    try:
        start()
    except (StackError, EmbeddedRedisError) as error:
        typer.echo(f"headrace: {error}", err=True)
        raise typer.Exit(1) from None
