"""`headrace dead`."""

import json
from collections.abc import Callable
from typing import Annotated

import typer

from ...schemas.errors import JobNotFound
from ..client import Client
from ..operate.dead import DeadLetter
from .options import AsJson, RedisUrl, show
from .words import facts, moment

Name = Annotated[str, typer.Argument(metavar="ID", help="The id of the job or of the dead letter.")]
NameOrAll = Annotated[
    str | None, typer.Argument(metavar="[ID]", help="The id of the job or of the dead letter.")
]
All = Annotated[bool, typer.Option("--all", help="All dead letters, or all of --model.")]
Model = Annotated[str | None, typer.Option("--model", "-m", help="Only dead letters of this model.")]


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    group = typer.Typer(help="Jobs that failed because workers kept dying over them.", no_args_is_help=True)
    group.command("list")(list_letters)
    group.command("show")(show_letter)
    group.command("requeue")(requeue)
    group.command("drop")(drop)
    app.add_typer(group, name="dead")


def list_letters(
    redis: RedisUrl = None,
    model: Model = None,
    limit: Annotated[
        int, typer.Option(min=1, max=10_000, help="Show at most this many, newest first.")
    ] = 100,
    as_json: AsJson = False,
) -> None:
    """List dead letters, newest first."""
    columns = {"entry": "LETTER", "job_id": "JOB", "cause": "CAUSE", "attempts": "DEATHS", "offset": "TOKENS"}
    with Client.from_env(redis) as client:
        letters = client.admin.dead_letters(model, limit=limit)
    show(letters, columns, "no dead letters", as_json=as_json)


def show_letter(name: Name, redis: RedisUrl = None, as_json: AsJson = False) -> None:
    """Show one dead letter, its job, and the text generated so far."""
    with Client.from_env(redis) as client:
        letter = client.admin.dead_letter(name)
    if as_json:
        typer.echo(json.dumps(letter.model_dump(mode="json"), indent=2))
        return
    known = letter.model_dump(mode="json", exclude={"at_ms", "job", "text"})
    when = moment(letter.at_ms) if letter.at_ms else None
    typer.echo(facts(*((name, value or None) for name, value in known.items()), ("at", when)))
    if letter.job is not None:
        typer.echo(f"{'job':<12} {json.dumps(letter.job, ensure_ascii=False)}")
    if letter.text:
        typer.echo(f"\n{letter.text}")


def requeue(
    name: NameOrAll = None,
    redis: RedisUrl = None,
    every: All = False,
    model: Model = None,
    from_scratch: Annotated[
        bool,
        typer.Option("--from-scratch", help="Discard what was generated instead of continuing after it."),
    ] = False,
) -> None:
    """Queue a dead letter's job again with its attempts reset. Exit status 1 if a letter had no job."""
    with Client.from_env(redis) as client:
        letters = _chosen(client, name, model, every=every)
        jobs = [letter for letter in letters if letter.has_job]
        queued = _each(
            jobs, lambda letter: client.admin.requeue_dead_letter(letter, from_scratch=from_scratch)
        )
    for job_id in queued:
        typer.echo(job_id)
    for letter in letters:
        if not letter.has_job:
            typer.echo(f"{letter.entry}: {letter.cause}: no job to queue; drop it", err=True)
    if len(queued) < len(letters):
        raise typer.Exit(1)


def drop(
    name: NameOrAll = None,
    redis: RedisUrl = None,
    every: All = False,
    model: Model = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask for confirmation.")] = False,
) -> None:
    """Delete a dead letter with its job's record and output."""
    with Client.from_env(redis) as client:
        letters = _chosen(client, name, model, every=every)
        if letters and not yes:
            typer.confirm(f"permanently delete {len(letters)} dead letters?", abort=True)
        dropped = _each(letters, client.admin.drop_dead_letter)
    typer.echo(f"{len(dropped)} dropped")


def _chosen(client: Client, name: str | None, model: str | None, *, every: bool) -> list[DeadLetter]:
    if every == (name is not None):
        raise typer.BadParameter("give either an ID or --all")
    if name is not None:
        return [client.admin.dead_letter(name)]
    return client.admin.dead_letters(model, limit=None)


def _each(letters: list[DeadLetter], act: Callable[[DeadLetter], str]) -> list[str]:
    """Act on each letter; one that has disappeared meanwhile is reported and doesn't stop the others."""
    done = []
    for letter in letters:
        try:
            done.append(act(letter))
        except JobNotFound:
            typer.echo(
                f"{letter.entry}: the letter or its job no longer exists; see headrace dead list", err=True
            )
    return done
