"""`headrace up` and `headrace demo`: everything on one machine."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from .producers.cli.options import RedisUrl


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.command("up", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(up)
    app.command("demo")(demo)


def demo(redis: RedisUrl = None) -> None:
    """Start everything, run jobs, kill an engine, show that nothing was lost; ends by itself."""
    from .demo import demo as tour

    _run(lambda: tour(redis))


def up(
    context: typer.Context,
    redis: RedisUrl = None,
    model: Annotated[str, typer.Option(help="Hub name, local folder, or `demo`.")] = "demo",
    engines: Annotated[int, typer.Option(min=1, help="Engine processes.")] = 1,
    data: Annotated[Path, typer.Option(help="Holds the embedded Redis's data and the worker's log.")] = Path(
        ".headrace"
    ),
) -> None:
    """Keep Redis (embedded, unless --redis is given) and a worker running until Ctrl-C.

    Further options are those of `headrace worker`.
    """
    from .stack import up as keep_up

    worker_args = ["--model", model, *context.args]
    _run(lambda: keep_up(data, redis_url=redis, worker_args=worker_args, engines=engines))


def _run(start: Callable[[], None]) -> None:
    from .stack import StackError
    from .workers.embedded_redis import EmbeddedRedisError

    try:
        start()
    except (StackError, EmbeddedRedisError) as error:
        typer.echo(f"headrace: {error}", err=True)
        raise typer.Exit(1) from None
