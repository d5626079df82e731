"""`headrace tenants`."""

from typing import Annotated

import typer
from pydantic import BaseModel

from ...schemas.tenants import DEFAULT, TenantPolicy
from ..client import Client
from .options import AsJson, RedisUrl, refusals, show
from .webhooks import register_secrets

Tenant = Annotated[
    str, typer.Argument(metavar="TENANT", help=f"The tenant's name; {DEFAULT} for all without a policy.")
]


_COLUMNS = {
    "tenant": "TENANT",
    "weight": "WEIGHT",
    "max_running": "RUNNING",
    "requests_per_minute": "REQUESTS/MIN",
    "tokens_per_minute": "TOKENS/MIN",
    "max_queued_jobs": "QUEUED",
    "max_queued_bytes": "BYTES",
    "max_open_batches": "BATCHES",
    "max_files": "FILES",
    "max_stored_bytes": "STORED",
}


class _ListedTenant(TenantPolicy):
    tenant: str


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    group = typer.Typer(help="Weights, rates and limits of tenants.", no_args_is_help=True)
    group.command("list")(list_tenants)
    group.command("set")(set_tenant)
    group.command("show")(show_tenant)
    group.command("drop")(drop)
    register_secrets(group)
    app.add_typer(group, name="tenants")


def list_tenants(redis: RedisUrl = None, as_json: AsJson = False) -> None:
    """List the tenants that have a policy."""
    with Client.from_env(redis) as client:
        policies = client.admin.tenants()
    rows: list[BaseModel] = [
        _ListedTenant(tenant=tenant, **policy.model_dump()) for tenant, policy in policies.items()
    ]
    show(rows, _COLUMNS, "no tenant has a policy; nothing is limited", as_json=as_json)


def show_tenant(tenant: Tenant, redis: RedisUrl = None, as_json: AsJson = False) -> None:
    """Show the policy that applies to a tenant: its own, or the default."""
    with Client.from_env(redis) as client, refusals():
        policy = client.admin.tenant(tenant)
    show([_ListedTenant(tenant=tenant, **policy.model_dump())], _COLUMNS, "", as_json=as_json)


def set_tenant(
    tenant: Tenant,
    redis: RedisUrl = None,
    weight: Annotated[
        float | None, typer.Option(help="Share of the workers, relative to other tenants.")
    ] = None,
    max_running: Annotated[int | None, typer.Option(help="Maximum number of running jobs.")] = None,
    requests_per_minute: Annotated[
        float | None, typer.Option(help="Jobs that may be enqueued per minute.")
    ] = None,
    tokens_per_minute: Annotated[
        float | None, typer.Option(help="Prompt and output tokens per minute.")
    ] = None,
    max_queued_jobs: Annotated[int | None, typer.Option(help="Maximum number of waiting jobs.")] = None,
    max_queued_bytes: Annotated[
        int | None, typer.Option(help="Maximum size of waiting jobs, in bytes.")
    ] = None,
    max_open_batches: Annotated[
        int | None, typer.Option(help="Maximum number of batches that have not ended, of all models.")
    ] = None,
    max_files: Annotated[int | None, typer.Option(help="Maximum number of stored files.")] = None,
    max_stored_bytes: Annotated[
        int | None, typer.Option(help="Maximum size of stored files, in bytes.")
    ] = None,
) -> None:
    """Set a tenant's policy, at once and for every model. What is not given is not limited."""
    with Client.from_env(redis) as client, refusals():
        policy = client.admin.set_tenant(
            tenant,
            weight=weight,
            max_running=max_running,
            requests_per_minute=requests_per_minute,
            tokens_per_minute=tokens_per_minute,
            max_queued_jobs=max_queued_jobs,
            max_queued_bytes=max_queued_bytes,
            max_open_batches=max_open_batches,
            max_files=max_files,
            max_stored_bytes=max_stored_bytes,
        )
    typer.echo(f"{tenant} {policy.to_wire()}")


def drop(tenant: Tenant, redis: RedisUrl = None) -> None:
    """Drop a tenant's policy, so that the default applies."""
    with Client.from_env(redis) as client, refusals():
        client.admin.drop_tenant(tenant)
    typer.echo(f"{tenant} has no policy of its own")
