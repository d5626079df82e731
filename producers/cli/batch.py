"""`headrace batch`."""

import asyncio
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from ...schemas.errors import InvalidJob
from ...schemas.job import JobClass
from ...schemas.settings.common import CommonSettings
from ..async_client import AsyncClient
from ..batch import BatchRun, Tally
from ..batch_lines import STANDARD
from ..operate.models import only_model
from .options import RedisUrl, waits_told

TELL_S = 30.0
"""How often progress is printed when there is no terminal for a progress bar."""


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("batch")(batch)


def batch(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            dir_okay=False,
            help="JSON lines, one request per line; - reads standard input.",
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            dir_okay=False,
            help="JSON lines, one answer per line; - writes standard output.",
        ),
    ],
    redis: RedisUrl = None,
    errors: Annotated[
        Path | None,
        typer.Option("--errors", "-e", dir_okay=False, help="Write answers that are errors to this file."),
    ] = None,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Retry the lines whose answer is an error.")
    ] = False,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            help="Model of lines that name none; defaults to HEADRACE_DEFAULT_MODEL, or the only one served.",
        ),
    ] = None,
    max_tokens: Annotated[int | None, typer.Option(help="max_tokens of lines that don't give it.")] = None,
    job_class: Annotated[
        JobClass, typer.Option("--class", help="Class of lines that don't give one.")
    ] = JobClass.BATCH,
    tenant: Annotated[str, typer.Option(help="Tenant of lines that don't give one.")] = "default",
    in_flight: Annotated[int, typer.Option(min=1, help="Maximum number of jobs in flight.")] = 256,
) -> None:
    """Run a file of requests; run the same command again to resume an interrupted run.

    Each line is either OpenAI's {"custom_id", "url", "body"} for /v1/completions or /v1/chat/completions, or
    a job's own arguments: {"prompt": ..., "model": ...}. Answers are written as jobs end, one per line. The
    exit status is 1 if any answer is an error, including answers of earlier runs.
    """
    _check(file, output, errors)
    defaults = {"model": model, "max_tokens": max_tokens, "job_class": job_class, "tenant": tenant}
    given: dict[str, Any] = {name: value for name, value in defaults.items() if value is not None}

    async def run() -> Tally:
        with _progress(output) as changed, waits_told():
            async with AsyncClient.from_env(redis) as client:
                no_model = "" if model else await _choose_model(client, given)
                files = (file, output, given, in_flight, changed, errors)
                return await BatchRun(client, *files, retry_failed, no_model).run()

    try:
        tally = asyncio.run(run())
    except KeyboardInterrupt:
        typer.echo("\nthe jobs continue; run the same command again to resume", err=True)
        # 128 + SIGINT, as shells count.
        raise typer.Exit(130) from None
    except OSError as error:
        if error.errno is None:
            raise
        typer.echo(f"headrace: {error.filename or output}: {error.strerror}", err=True)
        raise typer.Exit(1) from None
    typer.echo(_summary(tally), err=True)
    if tally.errors:
        raise typer.Exit(1)


async def _choose_model(client: AsyncClient, given: dict[str, Any]) -> str:
    """Choose a model for lines that name none as `headrace enqueue` does; or what they are to be told."""
    chosen = CommonSettings.load().default_model
    try:
        given["model"] = only_model(await client.models()) if chosen is None else chosen
    except InvalidJob as none:
        return f"{none.reason}, or give --model for all such lines"
    return ""


def _check(file: Path, *written: Path | None) -> None:
    """Refuse a missing file of requests, and output that would overwrite it or another output."""
    if file != STANDARD and not file.exists():
        raise typer.BadParameter(f"there is no file {file}")
    paths = [path for path in (file, *written) if path is not None]
    places = [path.resolve() for path in paths if path != STANDARD and (path.is_file() or not path.exists())]
    if len(set(places)) < len(places):
        raise typer.BadParameter("FILE, --output and --errors must be different files")


def _summary(tally: Tally) -> str:
    ended = f"{tally.succeeded} answered, {tally.failed} failed, {tally.skipped} skipped"
    earlier = f"; errors of earlier runs: {tally.standing} (--retry-failed)" if tally.standing else ""
    return f"{ended}; {tally.tokens} tokens{earlier}"


@contextmanager
def _progress(output: Path) -> Iterator[Callable[[Tally], None]]:
    """A progress bar if the terminal shows nothing else, otherwise a line every `TELL_S`."""
    if not sys.stderr.isatty() or (output == STANDARD and sys.stdout.isatty()):
        yield _Teller().tell
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


class _Teller:
    def __init__(self) -> None:
        self._next_s = time.monotonic() + TELL_S

    def tell(self, tally: Tally) -> None:
        if time.monotonic() >= self._next_s:
            self._next_s = time.monotonic() + TELL_S
            typer.echo(f"{tally.done} of {tally.lines} done, {tally.failed} failed", err=True)
