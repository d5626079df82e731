"""`headrace config`: the effective settings and where each comes from."""

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import typer

from ..producers.cli.options import AsJson, RedisUrl
from ..schemas.redis.connection import shown_url
from ..schemas.settings.common import ENV_PREFIX, config_file, read_config_file
from ..schemas.settings.gateway import GatewaySettings
from ..workers.settings import CallbacksSettings, WorkerSettings


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command("config")(config)


@dataclass(frozen=True, slots=True)
class Setting:
    """One effective setting; `source` is where its value comes from."""

    name: str
    value: Any
    source: str


def config(redis: RedisUrl = None, as_json: AsJson = False) -> None:
    """Print the effective settings and where each comes from; passwords are masked."""
    settings = list(effective_settings(redis))
    if as_json:
        typer.echo(json.dumps([asdict(setting) for setting in settings], indent=2))
        return
    width = max(len(setting.name) for setting in settings)
    for setting in settings:
        value = "" if setting.value is None else json.dumps(setting.value)
        typer.echo(f"{setting.name:<{width}}  {value:<40}  {setting.source}")


def effective_settings(redis: str | None) -> Iterator[Setting]:
    """Every setting as a process started here and now would see it.

    Raises:
        BadSetting: naming the first setting that is wrong.
    """
    loaded: dict[str, Any] = {}
    for kind in (WorkerSettings, CallbacksSettings, GatewaySettings):
        loaded |= kind.load(redis_url=redis).model_dump(mode="json")
    in_environment = {name.lower() for name in os.environ}
    in_file = read_config_file()
    for name, value in loaded.items():
        variable = f"{ENV_PREFIX}{name.upper()}"
        if name == "redis_url" and redis is not None:
            source = "--redis"
        elif variable.lower() in in_environment:
            source = variable
        elif name in in_file:
            source = str(config_file())
        else:
            source = "default"
        yield Setting(name, _shown(value), source)


def _shown(value: Any) -> Any:
    """A setting's value without passwords, which occur in URLs and in nested options."""
    if isinstance(value, dict):
        return {name: "***" if isinstance(inner, dict) else _shown(inner) for name, inner in value.items()}
    return shown_url(value) if isinstance(value, str) else value
