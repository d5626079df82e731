"""`headrace dead`."""

import json
from collections.abc import Callable
from typing import Annotated

import typer

from ...schemas.errors import JobNotFound
from ..client import Client
from ..operate.dead import DeadLetter, drop_letter, find_dead, read_dead, read_dead_job, requeue_letter
from ..steps import Steps
from .options import AsJson, RedisUrl, show
from .words import facts, moment

Name = Annotated[str, typer.Argument(metavar="ID", help="The job's id, or the letter's.")]
NameOrAll = Annotated[str | None, typer.Argument(metavar="[ID]", help="The job's id, or the letter's.")]
All = Annotated[bool, typer.Option("--all", help="All of them, or all of --model.")]
Model = Annotated[str | None, typer.Option("--model", "-m", help="Of this model only.")]


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    group = typer.Typer(help="Jobs that ended because workers died over them.", no_args_is_help=True)
    group.command("list")(list_letters)
    group.command("show")(show_letter)
    group.command("requeue")(requeue)
    group.command("drop")(drop)
    app.add_typer(group, name="dead")


def list_letters(
    redis: RedisUrl = None,
    model: Model = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="At most so many, the newest.")] = 100,
    as_json: AsJson = False,
) -> None:
    """List dead letters, newest first."""
    columns = {"entry": "LETTER", "job_id": "JOB", "cause": "CAUSE", "attempts": "DEATHS", "offset": "TOKENS"}
    with Client.from_env(redis) as client:
        letters = client._run(read_dead(client._operations, model, limit))
    show(letters, columns, "no dead letters", as_json=as_json)


def show_letter(name: Name, redis: RedisUrl = None, as_json: AsJson = False) -> None:
    """Show one dead letter, its job and what that had generated."""
    with Client.from_env(redis) as client:
        letter = client._run(find_dead(client._operations, name))
        kept = client._run(read_dead_job(client._operations, letter))
    if as_json:
        typer.echo(json.dumps(letter.model_dump(mode="json") | kept.model_dump(mode="json"), indent=2))
        return
    known = letter.model_dump(mode="json", exclude={"at_ms"})
    when = moment(letter.at_ms) if letter.at_ms else None
    typer.echo(facts(*((name, value or None) for name, value in known.items()), ("at", when)))
    if kept.job is not None:
        typer.echo(f"{'job':<12} {json.dumps(kept.job, ensure_ascii=False)}")
    if kept.text:
        typer.echo(f"\n{kept.text}")


def requeue(
    name: NameOrAll = None,
    redis: RedisUrl = None,
    every: All = False,
    model: Model = None,
    from_scratch: Annotated[
        bool, typer.Option("--from-scratch", help="Forget what was generated; else go on after it.")
    ] = False,
) -> None:
    """Queue the job of a dead letter again, as if no worker had died over it. Status 1 if one had no job."""
    with Client.from_env(redis) as client:
        letters = _chosen(client, name, model, every=every)
        jobs = [letter for letter in letters if letter.job_id and letter.cause == "crashed"]
        queued = _each(
            client, jobs, lambda letter: requeue_letter(client._operations, letter, from_scratch=from_scratch)
        )
    for job_id in queued:
        typer.echo(job_id)
    for letter in letters:
        if letter not in jobs:
            typer.echo(f"{letter.entry}: {letter.cause}: there is no job to queue; drop it", err=True)
    if len(queued) < len(letters):
        raise typer.Exit(1)


def drop(
    name: NameOrAll = None,
    redis: RedisUrl = None,
    every: All = False,
    model: Model = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")] = False,
) -> None:
    """Delete a dead letter, with its job's record and output."""
    with Client.from_env(redis) as client:
        letters = _chosen(client, name, model, every=every)
        if letters and not yes:
            typer.confirm(f"delete {len(letters)} dead letters for good?", abort=True)
        dropped = _each(client, letters, lambda letter: drop_letter(client._operations, letter))
    typer.echo(f"{len(dropped)} dropped")


def _chosen(client: Client, name: str | None, model: str | None, *, every: bool) -> list[DeadLetter]:
    if every == (name is not None):
        raise typer.BadParameter("give either an ID or --all")
    if name is not None:
        return [client._run(find_dead(client._operations, name))]
    return client._run(read_dead(client._operations, model, None))


def _each(client: Client, letters: list[DeadLetter], act: Callable[[DeadLetter], Steps[str]]) -> list[str]:
    """Do it to all of them; one that has gone meanwhile is said so and does not stop the others."""
    done = []
    for letter in letters:
        try:
            done.append(client._run(act(letter)))
        except JobNotFound:
            typer.echo(
                f"{letter.entry}: gone meanwhile, or its job is; dead list shows what is there", err=True
            )
    return done
