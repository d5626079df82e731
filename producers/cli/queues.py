"""`headrace queues`."""

from typing import Annotated

import typer

from ...schemas.job import JobClass
from ..client import Client
from ..operate.pauses import PausedQueue
from .options import AsJson, RedisUrl, show
from .words import moment

Model = Annotated[str, typer.Argument(metavar="MODEL", help="The model's name.")]
Class = Annotated[JobClass | None, typer.Option("--class", help="Only jobs of this class.")]
Tenant = Annotated[str | None, typer.Option(help="Only jobs of this tenant.")]


class _ListedPause(PausedQueue):
    @property
    def all_classes(self) -> str:
        return self.job_class or "all"

    @property
    def all_tenants(self) -> str:
        return self.tenant or "all"

    @property
    def since(self) -> str:
        return moment(self.since_ms)


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    group = typer.Typer(invoke_without_command=True, callback=queues)
    group.command("list")(list_queues)
    group.command("pause")(pause)
    group.command("resume")(resume)
    group.command("purge")(purge)
    app.add_typer(group, name="queues")


def queues(context: typer.Context, redis: RedisUrl = None, as_json: AsJson = False) -> None:
    """List the queues that have waiting or running jobs, or pause, resume or purge one."""
    if context.invoked_subcommand is None:
        list_queues(redis, as_json=as_json)


def list_queues(
    redis: RedisUrl = None,
    paused: Annotated[
        bool, typer.Option("--paused", help="List what is paused instead, even without jobs.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """List the queues that have waiting or running jobs, or with --paused what is paused."""
    with Client.from_env(redis) as client:
        if paused:
            rows = [_ListedPause(**each.model_dump()) for each in client.admin.pauses()]
            columns = {
                "model": "MODEL",
                "all_classes": "CLASS",
                "all_tenants": "TENANT",
                "since": "SINCE",
            }
            return show(rows, columns, "nothing is paused", as_json=as_json)
        columns = {
            "model": "MODEL",
            "job_class": "CLASS",
            "tenant": "TENANT",
            "depth": "WAITING",
            "bytes": "BYTES",
            "running": "RUNNING",
            "paused": "PAUSED",
        }
        return show(client.admin.queues(), columns, "no jobs are waiting or running", as_json=as_json)


def pause(model: Model, redis: RedisUrl = None, job_class: Class = None, tenant: Tenant = None) -> None:
    """Stop starting jobs of a model, or of one of its classes or tenants. Jobs that have started continue."""
    with Client.from_env(redis) as client:
        client.admin.pause(model, job_class=job_class, tenant=tenant)
    typer.echo(f"{_named(model, job_class, tenant)} is paused")


def resume(model: Model, redis: RedisUrl = None, job_class: Class = None, tenant: Tenant = None) -> None:
    """End a pause, given the same model, class and tenant. Exit status 1 if there was none."""
    with Client.from_env(redis) as client:
        ended = client.admin.resume(model, job_class=job_class, tenant=tenant)
    if not ended:
        typer.echo(
            f"{_named(model, job_class, tenant)} was not paused; see headrace queues list --paused", err=True
        )
        raise typer.Exit(1)
    typer.echo(f"{_named(model, job_class, tenant)} is resumed")


def purge(
    model: Model,
    redis: RedisUrl = None,
    job_class: Class = None,
    tenant: Tenant = None,
    delayed: Annotated[bool, typer.Option("--delayed", help="Also cancel delayed jobs.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask for confirmation.")] = False,
) -> None:
    """Cancel all waiting jobs of a model, or those of one class or tenant. Running jobs continue."""
    if not yes:
        typer.confirm(f"cancel every waiting job of {_named(model, job_class, tenant)}?", abort=True)
    with Client.from_env(redis) as client:
        count = client.admin.purge(model, job_class=job_class, tenant=tenant, delayed=delayed)
    typer.echo(f"{count} {'job' if count == 1 else 'jobs'} cancelled")


def _named(model: str, job_class: JobClass | None, tenant: str | None) -> str:
    parts = [model, job_class and f"class {job_class}", tenant and f"tenant {tenant}"]
    return ", ".join(part for part in parts if part)
