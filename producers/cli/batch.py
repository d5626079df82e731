"""`headrace batch`."""

import asyncio
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from ...schemas.job import JobClass
from ..async_client import AsyncClient
from ..batch import BatchRun, Tally
from .options import RedisUrl


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("batch")(batch)


def batch(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="JSON lines, one request each.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", dir_okay=False, help="JSON lines, one answer each.")
    ],
    redis: RedisUrl = None,
    model: Annotated[str | None, typer.Option("--model", "-m", help="For lines that name none.")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="For lines that don't say.")] = None,
    job_class: Annotated[
        JobClass, typer.Option("--class", help="For lines that don't say.")
    ] = JobClass.BATCH,
    tenant: Annotated[str, typer.Option(help="For lines that don't say.")] = "default",
    in_flight: Annotated[int, typer.Option(min=1, help="Most jobs under way at once.")] = 256,
) -> None:
    """Run a file of requests; run it again to go on where it was interrupted.

    A line is OpenAI's {"custom_id", "url", "body"} for /v1/completions or /v1/chat/completions, or a job's
    own arguments: {"prompt": ..., "model": ...}. Answers come in the order in which jobs end.
    """
    defaults = {"model": model, "max_tokens": max_tokens, "job_class": job_class, "tenant": tenant}
    given = {name: value for name, value in defaults.items() if value is not None}
    try:
        tally = asyncio.run(_run(redis, file, output, given, in_flight))
    except KeyboardInterrupt:
        typer.echo("\nthe jobs go on; run the same command again to go on", err=True)
        raise typer.Exit(130) from None
    except OSError as error:
        if error.errno is None:
            raise
        typer.echo(f"headrace: {error.filename or output}: {error.strerror}", err=True)
        raise typer.Exit(1) from None
    typer.echo(
        f"{tally.succeeded} answered, {tally.failed} failed, {tally.skipped} skipped; {tally.tokens} tokens",
        err=True,
    )
    if tally.failed:
        raise typer.Exit(1)


async def _run(
    redis: str | None, file: Path, output: Path, defaults: dict[str, Any], in_flight: int
) -> Tally:
    with _progress() as changed:
        async with AsyncClient.from_env(redis) as client:
            return await BatchRun(client, file, output, defaults, in_flight, changed).run()


@contextmanager
def _progress() -> Iterator[Callable[[Tally], None]]:
    """A progress bar on a terminal, else nothing."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=None)
        yield lambda tally: bar.update(
            task,
            total=tally.lines,
            completed=tally.done,
            description=f"{tally.tokens} tokens, {tally.failed} failed",
        )
