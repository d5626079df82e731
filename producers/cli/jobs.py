"""`headrace enqueue`, `tail`, `status` and `cancel`."""

import sys
from typing import Annotated

import typer

from ...schemas.job import JobClass
from ..client import Client, JobHandle
from .options import AsJson, RedisUrl, waits_told

JobId = Annotated[str, typer.Argument(metavar="ID", help="The job's id.")]


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.command("enqueue")(enqueue)
    app.command("tail")(tail)
    app.command("status")(status)
    app.command("cancel")(cancel)


def enqueue(
    text: Annotated[str, typer.Argument(help="The prompt; - reads it from standard input.")],
    model: Annotated[str, typer.Option("--model", "-m", help="The model's served name.")],
    redis: RedisUrl = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Print the output as it comes.")] = False,
    chat: Annotated[bool, typer.Option("--chat", help="Send the text as a chat message.")] = False,
    max_tokens: Annotated[int, typer.Option(help="Most tokens to generate.")] = 256,
    min_tokens: Annotated[int, typer.Option(help="No end before this many tokens.")] = 0,
    temperature: Annotated[float, typer.Option(help="0 is greedy.")] = 1.0,
    top_p: Annotated[float, typer.Option(help="Sample from this share of probability.")] = 1.0,
    top_k: Annotated[int, typer.Option(help="Sample from this many tokens; 0 from all.")] = 0,
    min_p: Annotated[float, typer.Option(help="Least probability relative to the likeliest.")] = 0.0,
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same tokens.")] = None,
    stop: Annotated[list[str] | None, typer.Option(help="A string that ends the text; repeatable.")] = None,
    ignore_eos: Annotated[bool, typer.Option("--ignore-eos", help="Go on after the end of text.")] = False,
    job_class: Annotated[JobClass, typer.Option("--class", help="How urgent it is.")] = JobClass.STANDARD,
    tenant: Annotated[str, typer.Option(help="Whose job it is.")] = "default",
    idempotency_key: Annotated[str | None, typer.Option(help="Enqueue once for this key.")] = None,
    delay_s: Annotated[float, typer.Option(help="Not before this many seconds from now.")] = 0.0,
    deadline_s: Annotated[float | None, typer.Option(help="Expire after this many seconds.")] = None,
    max_runtime_s: Annotated[
        float | None, typer.Option(help="Expire this many seconds after the first start.")
    ] = None,
    check_model: Annotated[bool, typer.Option(help="Refuse a model that was never served here.")] = True,
) -> None:
    """Enqueue one job and print its id; with --follow print its output."""
    prompt = sys.stdin.read() if text == "-" else text
    with Client.from_env(redis, check_model=check_model) as client:
        job = client.enqueue(
            prompt=None if chat else prompt,
            messages=[{"role": "user", "content": prompt}] if chat else None,
            model=model,
            max_tokens=max_tokens,
            min_tokens=min_tokens,
            temperature=temperature,
            top_p=top_p,
            top_k=top_k,
            min_p=min_p,
            seed=seed,
            stop=stop or (),
            ignore_eos=ignore_eos,
            job_class=job_class,
            tenant=tenant,
            idempotency_key=idempotency_key,
            delay_s=delay_s,
            deadline_s=deadline_s,
            max_runtime_s=max_runtime_s,
            stream=follow,
        )
        typer.echo(job.id, err=follow)
        if follow:
            _follow(job, 0)


def tail(
    job_id: JobId,
    redis: RedisUrl = None,
    from_offset: Annotated[int, typer.Option(min=0, help="Go on after this many tokens.")] = 0,
) -> None:
    """Print a job's output, from its beginning or from a token offset, until it ends."""
    with Client.from_env(redis) as client:
        _follow(client.job(job_id), from_offset)


def status(job_id: JobId, redis: RedisUrl = None, as_json: AsJson = False) -> None:
    """Show where a job is."""
    with Client.from_env(redis) as client:
        found = client.job(job_id).status()
    if as_json:
        typer.echo(found.model_dump_json(indent=2))
        return
    for name, value in found.model_dump(mode="json", exclude_none=True).items():
        if value != {}:
            typer.echo(f"{name:<12} {value}")


def cancel(job_id: JobId, redis: RedisUrl = None) -> None:
    """Cancel a job: at once while it waits, within a moment while it runs."""
    with Client.from_env(redis) as client:
        outcome = client.job(job_id).cancel()
        state = client.job(job_id).status().state
    typer.echo(f"{outcome} {state}" if outcome == "already" else str(outcome))


def _follow(job: JobHandle, offset: int) -> None:
    try:
        with waits_told():
            for chunk in job.stream(from_offset=offset):
                offset = chunk.offset
                typer.echo(chunk.text, nl=False)
                sys.stdout.flush()
    except KeyboardInterrupt:
        typer.echo(f"\nthe job goes on; so does: headrace tail {job.id} --from-offset {offset}", err=True)
        raise typer.Exit(130) from None
    finally:
        if sys.stdout.isatty():
            typer.echo()
