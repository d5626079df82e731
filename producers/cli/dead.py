"""`headrace dead`."""

from typing import Annotated

import typer

from ..client import Client
from ..dead import DeadLetter, drop_letter, find_dead, read_dead, requeue_letter
from .options import AsJson, RedisUrl, show

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
    """Show one dead letter and what its job had generated."""
    with Client.from_env(redis) as client:
        letter = client._run(find_dead(client._operations, name))
        text = _text(client, letter)
    if as_json:
        typer.echo(letter.model_dump_json(indent=2))
        return
    for field, value in letter.model_dump(mode="json").items():
        if value not in {"", 0}:
            typer.echo(f"{field:<10} {value}")
    if text:
        typer.echo(f"\n{text}")


def requeue(
    name: NameOrAll = None,
    redis: RedisUrl = None,
    every: All = False,
    model: Model = None,
    from_scratch: Annotated[
        bool, typer.Option("--from-scratch", help="Forget what was generated; else go on after it.")
    ] = False,
) -> None:
    """Queue the job of a dead letter again, as if no worker had died over it."""
    with Client.from_env(redis) as client:
        for letter in _chosen(client, name, model, every=every):
            if letter.job_id and letter.cause == "crashed":
                typer.echo(client._run(requeue_letter(client._operations, letter, from_scratch=from_scratch)))
            else:
                typer.echo(f"{letter.entry}: {letter.cause}: there is no job to queue; drop it", err=True)


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
        if not yes:
            typer.confirm(f"delete {len(letters)} dead letters for good?", abort=True)
        for letter in letters:
            client._run(drop_letter(client._operations, letter))
    typer.echo(f"{len(letters)} dropped")


def _chosen(client: Client, name: str | None, model: str | None, *, every: bool) -> list[DeadLetter]:
    if every == (name is not None):
        raise typer.BadParameter("give either an ID or --all")
    if name is not None:
        return [client._run(find_dead(client._operations, name))]
    return client._run(read_dead(client._operations, model, 10_000))


def _text(client: Client, letter: DeadLetter) -> str:
    from ...schemas.events import Output
    from ..steps import Read

    operations = client._operations
    if not letter.job_id:
        return ""
    reads = Read((("HGET", operations.tag_of(letter.job_id).job(letter.job_id), "result"),))
    (result,) = client._run(operations.send(reads))
    return Output.model_validate_json(result).text if result else ""
