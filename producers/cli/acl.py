"""`headrace acl`."""

from typing import Annotated

import typer

from ...schemas.redis.acl import Role, acl_line
from ...schemas.settings.common import CommonSettings


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("acl")(acl)


def acl(
    role: Annotated[Role, typer.Option(help="The process that connects as this user.")] = Role.WORKER,
    user: Annotated[str, typer.Option(help="The user's name.")] = "headrace",
) -> None:
    """Print the Redis command that creates a user with only the rights that its role needs."""
    typer.echo(acl_line(role, user, CommonSettings.load().namespace))
