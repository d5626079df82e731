"""`headrace doctor`."""

import json
import sys
from collections.abc import Iterator

import typer

from ..producers.cli.options import AsJson, RedisUrl
from ..producers.client import Client
from ..producers.operate.findings import Finding, Verdict
from ..workers.known_settings import unknown

_COLOURS = {Verdict.OK: "green", Verdict.WARN: "yellow", Verdict.FAIL: "red"}


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("doctor")(doctor)


def doctor(redis: RedisUrl = None, as_json: AsJson = False) -> None:
    """Check Redis, the queues and this machine. Exit status 1 if something is wrong, with what to change."""
    with Client.from_env(redis) as client:
        findings = [*_settings(), *client.admin.doctor()]
    if as_json:
        typer.echo(json.dumps([finding.model_dump(mode="json") for finding in findings], indent=2))
    else:
        for finding in findings:
            _print(finding)
    if any(finding.verdict is Verdict.FAIL for finding in findings):
        raise typer.Exit(1)


def _settings() -> Iterator[Finding]:
    for sentence in unknown():
        advice = "correct or remove it"
        yield Finding(check="settings", verdict=Verdict.WARN, found=sentence, advice=advice)


def _print(finding: Finding) -> None:
    mark = f"{finding.verdict:<4}"
    if sys.stdout.isatty():
        mark = typer.style(mark, fg=_COLOURS[finding.verdict])
    typer.echo(f"{mark}  {finding.check:<14} {finding.found}")
    if finding.advice:
        typer.echo(f"      {'':<14} → {finding.advice}")
