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
from ..operate.models import default_model
from .options import RedisUrl, waits_told

TELL_S = 30.0
"""How often the progress is told where there is no terminal to show it on."""


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("batch")(batch)


def batch(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            dir_okay=False,
            help="JSON lines, one request each; - is standard input.",
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", dir_okay=False, help="JSON lines, one answer each; - is standard output."
        ),
    ],
    redis: RedisUrl = None,
    errors: Annotated[
        Path | None,
        typer.Option("--errors", "-e", dir_okay=False, help="Write the answers that are errors here."),
    ] = None,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Try the lines again whose answer is an error.")
    ] = False,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            help="For lines that name none; by default HEADRACE_DEFAULT_MODEL, or the only one served.",
        ),
    ] = None,
    max_tokens: Annotated[int | None, typer.Option(help="For lines that don't say.")] = None,
    job_class: Annotated[
        JobClass, typer.Option("--class", help="For lines that don't say.")
    ] = JobClass.BATCH,
    tenant: Annotated[str, typer.Option(help="For lines that don't say.")] = "default",
    in_flight: Annotated[int, typer.Option(min=1, help="Most jobs under way at once.")] = 256,
) -> None:
    """Run a file of requests; run it again to go on where it was interrupted.

    A line is OpenAI's {"custom_id", "url", "body"} for /v1/completions or /v1/chat/completions, or a job's
    own arguments: {"prompt": ..., "model": ...}. Answers come in the order in which jobs end, one for each
    line. The exit status is 1 as long as one of them, also of an earlier run, is an error.
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
        typer.echo("\nthe jobs go on; run the same command again to go on", err=True)
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
    try:
        chosen = CommonSettings.load().default_model
        given["model"] = await client._run(default_model(client._operations, chosen))
    except InvalidJob as none:
        return f"{none.reason}, or give --model for all such lines"
    return ""


def _check(file: Path, *written: Path | None) -> None:
    """Refuse requests that are not there, to write over them, or two kinds of answers into one file."""
    if file != STANDARD and not file.exists():
        raise typer.BadParameter(f"there is no file {file}")
    paths = [path for path in (file, *written) if path is not None]
    places = [path.resolve() for path in paths if path != STANDARD and (path.is_file() or not path.exists())]
    if len(set(places)) < len(places):
        raise typer.BadParameter("the file of requests and those of answers must be different ones")


def _summary(tally: Tally) -> str:
    ended = f"{tally.succeeded} answered, {tally.failed} failed, {tally.skipped} skipped"
    earlier = f"; errors of earlier runs: {tally.standing} (--retry-failed)" if tally.standing else ""
    return f"{ended}; {tally.tokens} tokens{earlier}"


@contextmanager
def _progress(output: Path) -> Iterator[Callable[[Tally], None]]:
    """A progress bar on a terminal that shows nothing else, elsewhere a line now and then."""
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
