"""`headrace webhooks`, and `headrace tenants secret`."""

import json
from typing import Annotated

import typer
from pydantic import BaseModel

from ...schemas.errors import DeliveryNotFound
from ...schemas.webhooks.delivery import Delivery, DeliveryState
from ..client import Client
from .options import AsJson, RedisUrl, refusals, show
from .words import duration, facts, moment

Id = Annotated[
    str, typer.Argument(metavar="ID", help="The delivery's id, which the receiver sees as webhook-id.")
]
Tenant = Annotated[str, typer.Argument(metavar="TENANT", help="The tenant's name.")]

_COLUMNS = {
    "id": "ID",
    "job_id": "JOB",
    "event": "EVENT",
    "state": "STATE",
    "attempts": "ATTEMPTS",
    "status": "STATUS",
    "took_s": "SECONDS",
    "error": "ERROR",
    "url": "URL",
}


_WAYS_OUT = {
    DeliveryState.REFUSED: "if the private receiver is yours, list it in HEADRACE_WEBHOOK_ALLOW, restart "
    "headrace callbacks, then: headrace webhooks replay",
    DeliveryState.FAILED: "once its receiver is back: headrace webhooks replay",
    DeliveryState.DISABLED: "its receiver answered 410 Gone; if that was a mistake: headrace webhooks replay",
}


class _ListedDelivery(Delivery):
    status: int | None = None
    took_s: float | None = None
    error: str = ""

    @classmethod
    def row(cls, delivery: Delivery) -> "_ListedDelivery":
        last = delivery.last
        took_s = last.took_s if delivery.history else None
        return cls(**delivery.model_dump(), status=last.status, took_s=took_s, error=last.error)


class _ListedSecret(BaseModel):
    id: str
    created_ms: int

    @property
    def created(self) -> str:
        return moment(self.created_ms)


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    group = typer.Typer(help="Webhook deliveries and how they ended.", no_args_is_help=True)
    group.command("list")(list_webhooks)
    group.command("show")(show_webhook)
    group.command("replay")(replay_webhooks)
    app.add_typer(group, name="webhooks")


def register_secrets(app: typer.Typer) -> None:
    """Add `secret` to the commands of `headrace tenants`."""
    group = typer.Typer(help="Secrets that sign a tenant's webhooks; during a rotation there are several.")
    group.command("add")(add)
    group.command("list")(list_secrets)
    group.command("drop")(drop)
    app.add_typer(group, name="secret")


def list_webhooks(
    redis: RedisUrl = None,
    state: Annotated[DeliveryState | None, typer.Option(help="Only deliveries in this state.")] = None,
    limit: Annotated[
        int, typer.Option(min=1, max=10_000, help="Show at most this many, newest first.")
    ] = 100,
    as_json: AsJson = False,
) -> None:
    """List deliveries, newest first, with the outcome of each one's latest attempt."""
    with Client.from_env(redis) as client:
        found = client.admin.deliveries(state=state, limit=limit)
    show([_ListedDelivery.row(delivery) for delivery in found], _COLUMNS, "no deliveries", as_json=as_json)


def show_webhook(delivery_id: Id, redis: RedisUrl = None, as_json: AsJson = False) -> None:
    """Show one delivery and its attempts."""
    with Client.from_env(redis) as client:
        delivery = client.admin.delivery(delivery_id)
    if as_json:
        typer.echo(json.dumps(delivery.model_dump(mode="json"), indent=2))
        return
    waits = None
    if delivery.state is DeliveryState.PENDING:
        waits = moment(delivery.next_ms) if delivery.next_ms else "now: an attempt is in flight"
    typer.echo(
        facts(
            ("delivery", delivery.id),
            ("state", delivery.state.value),
            ("job", delivery.job_id),
            ("event", delivery.event),
            ("tenant", delivery.tenant),
            ("url", delivery.url),
            ("created", moment(delivery.created_ms)),
            ("tried", f"{delivery.attempts} times" if delivery.attempts else "not yet"),
            ("next try", waits),
            ("way out", _WAYS_OUT.get(delivery.state)),
        )
    )
    for number, attempt in enumerate(delivery.history, 1):
        outcome = " ".join(str(part) for part in (attempt.status, attempt.error) if part)
        when = f", {moment(attempt.at_ms)}" if attempt.at_ms else ""
        typer.echo(f"attempt {number:<2} {outcome} after {duration(attempt.took_s)}{when}")


def replay_webhooks(
    delivery_id: Annotated[str | None, typer.Argument(metavar="[ID]", help="The delivery's id.")] = None,
    redis: RedisUrl = None,
    state: Annotated[DeliveryState | None, typer.Option(help="All deliveries in this state.")] = None,
) -> None:
    """Send deliveries again now, under the same ids, even if their endpoints were unreachable."""
    if (delivery_id is None) == (state is None):
        raise typer.BadParameter("give either an ID or --state")
    with Client.from_env(redis) as client:
        ids = [] if delivery_id is None else [delivery_id]
        if state is not None:
            found = client.admin.deliveries(state=state, limit=10_000)
            ids = [delivery.id for delivery in found]
        replayed = 0
        for each in ids:
            try:
                client.admin.replay_delivery(each)
            except DeliveryNotFound:
                if delivery_id is not None:
                    raise
                continue  # its retention ended after it was listed; the others are still sent
            replayed += 1
    typer.echo(f"{replayed} to be sent again")


def add(
    tenant: Tenant,
    redis: RedisUrl = None,
    secret: Annotated[
        str | None, typer.Option(help="Use this secret instead of a random one.", prompt=False)
    ] = None,
) -> None:
    """Add a secret and print it, this one time. All of a tenant's secrets sign until they are dropped."""
    with Client.from_env(redis) as client, refusals():
        added = client.admin.add_secret(tenant, secret)
    typer.echo(f"{added.id} {added.secret.get_secret_value()}")


def list_secrets(tenant: Tenant, redis: RedisUrl = None, as_json: AsJson = False) -> None:
    """List a tenant's secrets by id, without the secrets themselves."""
    with Client.from_env(redis) as client, refusals():
        known = client.admin.secrets(tenant)
    rows = [_ListedSecret(id=secret.id, created_ms=secret.created_ms) for secret in known]
    show(rows, {"id": "ID", "created": "CREATED"}, "no secrets; webhooks are not signed", as_json=as_json)


def drop(
    tenant: Tenant,
    secret_id: Annotated[str, typer.Argument(metavar="ID", help="The secret's id.")],
    redis: RedisUrl = None,
) -> None:
    """Drop a secret; it stops signing within five seconds."""
    with Client.from_env(redis) as client, refusals():
        left = client.admin.drop_secret(tenant, secret_id)
    typer.echo(f"{tenant} has {left} secrets left")
