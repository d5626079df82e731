"""`headrace enqueue`, `tail`, `status`, `result` and `cancel`."""

import json
import os
import sys
from typing import Annotated

import typer

from ...schemas.errors import InvalidJob
from ...schemas.events import JobResult, JobState, JobStatus
from ...schemas.job import JobClass
from ...schemas.settings.common import CommonSettings
from ..client import Client, JobHandle
from ..operate.models import only_model
from .options import AsJson, RedisUrl, waits_told
from .words import duration, facts, moment

JobId = Annotated[str, typer.Argument(metavar="ID", help="The job's id.")]


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.command("enqueue")(enqueue)
    app.command("tail")(tail)
    app.command("status")(status)
    app.command("result")(result)
    app.command("cancel")(cancel)


def enqueue(
    text: Annotated[str, typer.Argument(metavar="TEXT", help="The prompt; - reads standard input.")],
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            help="Served name; defaults to HEADRACE_DEFAULT_MODEL, or the only model served.",
        ),
    ] = None,
    redis: RedisUrl = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Print the output as it arrives.")] = False,
    chat: Annotated[bool, typer.Option("--chat", help="Send the text as a chat message.")] = False,
    max_tokens: Annotated[int, typer.Option(help="Maximum number of tokens to generate.")] = 256,
    min_tokens: Annotated[int, typer.Option(help="Minimum number of tokens before the text may end.")] = 0,
    temperature: Annotated[float, typer.Option(help="Sampling temperature; 0 is greedy.")] = 1.0,
    top_p: Annotated[
        float, typer.Option(help="Sample from the likeliest tokens with this total probability.")
    ] = 1.0,
    top_k: Annotated[int, typer.Option(help="Sample from this many likeliest tokens; 0 is all.")] = 0,
    min_p: Annotated[
        float, typer.Option(help="Minimum probability, relative to the likeliest token's.")
    ] = 0.0,
    seed: Annotated[int | None, typer.Option(help="Seed; the same seed gives the same tokens.")] = None,
    stop: Annotated[list[str] | None, typer.Option(help="String that ends the text; repeatable.")] = None,
    ignore_eos: Annotated[
        bool, typer.Option("--ignore-eos", help="Continue past the end-of-text token.")
    ] = False,
    job_class: Annotated[
        JobClass, typer.Option("--class", help="How urgent the job is.")
    ] = JobClass.STANDARD,
    tenant: Annotated[str, typer.Option(help="The tenant that owns the job.")] = "default",
    idempotency_key: Annotated[str | None, typer.Option(help="Enqueue at most one job for this key.")] = None,
    delay_s: Annotated[float, typer.Option(help="Don't start for this many seconds.")] = 0.0,
    deadline_s: Annotated[float | None, typer.Option(help="Expire after this many seconds.")] = None,
    max_runtime_s: Annotated[
        float | None, typer.Option(help="Expire this many seconds after first starting.")
    ] = None,
    check_model: Annotated[bool, typer.Option(help="Refuse a model that no worker has served here.")] = True,
) -> None:
    """Enqueue a job and print its id, or with --follow its output."""
    prompt = _prompt(text)
    with Client.from_env(redis, check_model=check_model) as client:
        job = client.enqueue(
            prompt=None if chat else prompt,
            messages=[{"role": "user", "content": prompt}] if chat else None,
            model=model or _default_model(client),
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
        # With --follow, stdout has the output alone, for a pipe.
        typer.echo(job.id, err=follow)
        if follow:
            _follow(job, 0)


def tail(
    job_id: JobId,
    redis: RedisUrl = None,
    from_offset: Annotated[int, typer.Option(min=0, help="Skip this many tokens.")] = 0,
) -> None:
    """Print a job's output from the start, or from a token offset, until it ends."""
    with Client.from_env(redis) as client:
        _follow(client.job(job_id), from_offset)


def status(job_id: JobId, redis: RedisUrl = None, as_json: AsJson = False) -> None:
    """Show a job's state, times and progress."""
    with Client.from_env(redis) as client:
        job = client.job(job_id)
        found = job.status()
        ended = job.result() if found.state is JobState.SUCCEEDED and not as_json else None
        waits = found.state in {JobState.QUEUED, JobState.DELAYED} and not as_json
        why = job.waits_for() if waits else None
    typer.echo(found.model_dump_json(indent=2) if as_json else _told(found, ended, why))


def result(
    job_id: JobId,
    redis: RedisUrl = None,
    timeout_s: Annotated[
        float | None,
        typer.Option(min=0, help="Give up after this many seconds; by default, wait as long as it takes."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Wait for a job to end and print its text or texts, or with --json its whole result."""
    with Client.from_env(redis) as client, waits_told():
        found = client.job(job_id).result(timeout_s)
    if as_json:
        typer.echo(found.model_dump_json(indent=2))
        return
    answers = found.answers()
    for number, answer in enumerate(answers):
        if len(answers) > 1:
            typer.echo(f"{number}: {answer.finish_reason}", err=True)
        typer.echo(answer.text)
    typer.echo(f"{found.finish_reason}: {_usage(found)}", err=True)


def cancel(job_id: JobId, redis: RedisUrl = None) -> None:
    """Cancel a job: at once if it is waiting, within a moment if it is running."""
    with Client.from_env(redis) as client:
        outcome = client.job(job_id).cancel()
        state = client.job(job_id).status().state
    typer.echo(f"{outcome} {state}" if outcome == "already" else str(outcome))


def _prompt(given: str) -> str:
    """The prompt, read from standard input if it is `-`.

    Raises:
        InvalidJob: it is not UTF-8, or larger than any job may be.
    """
    most = CommonSettings.load().max_job_bytes
    # One byte more than allowed shows that it is too long, and /dev/zero has no end. Python may have decoded
    # the argument by the locale; these are the bytes that the shell passed.
    raw = sys.stdin.buffer.read(most + 1) if given == "-" else os.fsencode(given)
    if len(raw) > most:
        raise InvalidJob("prompt", f"has more than max_job_bytes = {most} bytes")
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise InvalidJob(
            "prompt",
            f"is not UTF-8: byte 0x{raw[error.start]:02x} at position {error.start}; convert it first, "
            "for example with iconv -f latin1 -t utf-8",
        ) from None


def _default_model(client: Client) -> str:
    chosen = CommonSettings.load().default_model
    try:
        return only_model(client.models()) if chosen is None else chosen
    except InvalidJob as error:
        raise InvalidJob(error.field, f"{error.reason}; --model names one") from None


def _told(job: JobStatus, ended: JobResult | None, why: str | None) -> str:
    started, over = job.started_ms, job.finished_ms
    waited = f", after {duration((started - job.enqueued_ms) / 1000)} in the queue" if started else ""
    ran = f", {duration((over - started) / 1000)} after its start" if started and over else ""
    return facts(
        ("job", job.job_id),
        ("state", job.state.value),
        ("waits", why),
        ("error", job.error and f"{job.error.code}: {job.error.message}"),
        ("model", job.model),
        ("class", job.job_class.value),
        ("tenant", job.tenant),
        ("enqueued", moment(job.enqueued_ms)),
        ("started", started and f"{moment(started)}{waited}"),
        ("ended", over and f"{moment(over)}{ran}"),
        ("tokens", _usage(ended) if ended else job.offset),
        ("attempts", job.attempts or None),
        ("restarts", job.restarts or None),
        ("retry of", job.retry_of),
        ("worker", job.worker),
        ("fingerprint", job.fingerprint),
        ("metadata", job.metadata and json.dumps(job.metadata, ensure_ascii=False)),
    )


def _usage(ended: JobResult) -> str:
    usage, timings = ended.usage, ended.timings
    cached = f" ({usage.cached_tokens} of them cached)" if usage.cached_tokens else ""
    told = f"{usage.completion_tokens} tokens after a prompt of {usage.prompt_tokens}{cached}"
    if timings.first_token_s is not None:
        told += f"; the first after {duration(timings.first_token_s)}"
    return told if timings.total_s is None else f"{told}; all within {duration(timings.total_s)}"


def _follow(job: JobHandle, offset: int) -> None:
    last = "\n"
    try:
        try:
            with waits_told():
                for chunk in job.stream(from_offset=offset):
                    offset = chunk.offset
                    if chunk.choice:  # of several answers, side by side, only the first can be read
                        continue
                    last = chunk.text[-1:] or last
                    typer.echo(chunk.text, nl=False)
                    sys.stdout.flush()
        finally:
            if last != "\n":
                typer.echo()  # what comes next, an error or the shell's prompt, has a line of its own
    except KeyboardInterrupt:
        typer.echo(
            f"the job continues; follow it with: headrace tail {job.id} --from-offset {offset}", err=True
        )
        raise typer.Exit(130) from None
