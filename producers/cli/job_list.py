"""`headrace jobs` and `headrace retry`."""

import time
from typing import Annotated

import typer

from ...schemas.events import JobState, JobStatus
from ...schemas.job import JobClass
from ..client import Client
from .options import AsJson, RedisUrl, show
from .words import duration

_COLUMNS = {
    "job_id": "ID",
    "state": "STATE",
    "model": "MODEL",
    "job_class": "CLASS",
    "tenant": "TENANT",
    "offset": "TOKENS",
    "age": "AGE",
    "why": "ERROR",
}


class _ListedJob(JobStatus):
    @property
    def age(self) -> str:
        return duration(max(0.0, time.time() - self.enqueued_ms / 1000))

    @property
    def why(self) -> str:
        return self.error.code if self.error else ""


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    group = typer.Typer(help="The jobs, those that have ended included.", no_args_is_help=True)
    group.command("list")(list_jobs)
    app.add_typer(group, name="jobs")
    app.command("retry")(retry)


def list_jobs(
    redis: RedisUrl = None,
    model: Annotated[str | None, typer.Option("--model", "-m", help="Only jobs of this model.")] = None,
    state: Annotated[JobState | None, typer.Option(help="Only jobs in this state.")] = None,
    job_class: Annotated[JobClass | None, typer.Option("--class", help="Only jobs of this class.")] = None,
    tenant: Annotated[str | None, typer.Option(help="Only jobs of this tenant.")] = None,
    tag: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="Only jobs with this in their metadata; repeatable."),
    ] = None,
    min_age_s: Annotated[
        float | None, typer.Option(min=0, help="Only jobs enqueued at least this many seconds ago.")
    ] = None,
    max_age_s: Annotated[
        float | None, typer.Option(min=0, help="Only jobs enqueued at most this many seconds ago.")
    ] = None,
    limit: Annotated[
        int, typer.Option(min=1, max=10_000, help="Show at most this many, newest first.")
    ] = 100,
    as_json: AsJson = False,
) -> None:
    """List jobs, newest first, until their retention ends."""
    metadata = dict(_pair(each) for each in tag or ())
    found: list[JobStatus] = []
    with Client.from_env(redis) as client:
        cursor = None
        while True:
            page = client.admin.jobs(
                model,
                state=state,
                job_class=job_class,
                tenant=tenant,
                metadata=metadata,
                min_age_s=min_age_s,
                max_age_s=max_age_s,
                limit=limit - len(found),
                cursor=cursor,
            )
            found += page.jobs
            cursor = page.cursor
            # A page may be short, or empty, without being the last.
            if cursor is None or len(found) == limit:
                break
    show([_ListedJob(**dict(job)) for job in found], _COLUMNS, "no such jobs", as_json=as_json)


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals:
        raise typer.BadParameter(f"{text!r} is not KEY=VALUE")
    return key, value


def retry(
    job_id: Annotated[str, typer.Argument(metavar="ID", help="The job's id.")], redis: RedisUrl = None
) -> None:
    """Enqueue again what a failed, cancelled or expired job asked for, and print the new job's id."""
    with Client.from_env(redis) as client:
        typer.echo(client.admin.retry(job_id))
