"""Options and output that several commands share."""

import json
import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated

import typer
from pydantic import BaseModel

from ...schemas.errors import BadPolicy

RedisUrl = Annotated[
    str | None, typer.Option("--redis", metavar="URL", help="Redis URL (HEADRACE_REDIS_URL).")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]

_PROSE = ("error", "url")
"""Columns whose text may be wrapped."""

MIN_PROSE = 16


def show(rows: Sequence[BaseModel], columns: dict[str, str], empty: str, *, as_json: bool) -> None:
    """Print a list as a table on a terminal, as tab-separated lines elsewhere, or as JSON.

    `columns` maps field names to headings; `empty` is printed on a terminal if there are no rows.
    """
    if as_json:
        typer.echo(json.dumps([row.model_dump(mode="json") for row in rows], indent=2))
        return
    cells = [
        ["" if (value := getattr(row, name)) is None else str(value) for name in columns] for row in rows
    ]
    if not sys.stdout.isatty():
        for line in ([*columns.values()], *cells):
            typer.echo("\t".join(line))
        return
    from rich.console import Console
    from rich.table import Table

    if not rows:
        typer.echo(empty)
        return
    table = Table(box=None, header_style="bold")
    for name, heading in columns.items():
        prose = name in _PROSE
        table.add_column(heading, no_wrap=not prose, overflow="fold", min_width=MIN_PROSE if prose else None)
    for line in cells:
        table.add_row(*line)
    console = Console()
    # Prose is wrapped. The rest stays whole, past the edge if need be, so that it can be copied.
    room = sum(
        2 + max(len(text) for text in (heading, *column)) if name not in _PROSE else 2 + MIN_PROSE
        for (name, heading), column in zip(columns.items(), zip(*cells, strict=True), strict=True)
    )
    console.width = max(console.width, room)
    console.print(table, soft_wrap=True)


@contextmanager
def refusals() -> Iterator[None]:
    """Report a bad tenant name, policy or secret as wrong usage."""
    try:
        yield
    except BadPolicy as error:
        raise typer.BadParameter(str(error)) from None


@contextmanager
def waits_told() -> Iterator[None]:
    """Print the client's warnings, such as why a job waits, to stderr."""
    handler, log = logging.StreamHandler(), logging.getLogger("headrace")
    handler.setFormatter(logging.Formatter("headrace: %(message)s"))
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
