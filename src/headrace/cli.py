"""The `headrace` command. Each group of commands is a module with `register(app)`, imported when needed."""

import sys
from importlib import import_module
from typing import Annotated

import typer

from . import __version__

_GROUPS = {
    "headrace.producers.cli.jobs": ("enqueue", "tail", "status", "cancel"),
    "headrace.producers.cli.acl": ("acl",),
    "headrace.producers.cli.batch": ("batch",),
    "headrace.producers.cli.dead": ("dead",),
    "headrace.producers.cli.tenants": ("tenants",),
    "headrace.producers.cli.webhooks": ("webhooks",),
    "headrace.producers.cli.lists": ("models", "queues", "workers"),
    "headrace.workers.cli": ("worker",),
    "headrace.callbacks_cli": ("callbacks",),
    "headrace.local_cli": ("up", "demo"),
    "headrace.config_cli": ("config",),
    "headrace.doctor_cli": ("doctor",),
}

_SAY_WHAT_IS_UNKNOWN = ("config", "demo", "up")
"""Commands that say which settings do nothing; `doctor`, workers and callbacks do it in ways of their own."""


def build(arguments: list[str]) -> typer.Typer:
    """The command line with the group that `arguments` ask for; with all of them for help and for typos."""
    app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
    app.callback()(_root)
    wanted = next((argument for argument in arguments if not argument.startswith("-")), None)
    homes = [home for home, commands in _GROUPS.items() if wanted in commands] or list(_GROUPS)
    for home in homes:
        import_module(home).register(app)
    return app


def main() -> None:
    """Run the command line; an error is one sentence on stderr and exit status 1 (2 for wrong usage)."""
    arguments = sys.argv[1:]
    if arguments == ["--version"]:
        print(f"headrace {__version__}")
        return
    try:
        build(arguments)(args=arguments, prog_name="headrace")
    except Exception as error:
        from .schemas.errors import BrokerUnavailable, HeadraceError

        if not isinstance(error, HeadraceError):
            raise
        hint = " (which Redis: --redis or HEADRACE_REDIS_URL)" if isinstance(error, BrokerUnavailable) else ""
        print(f"headrace: {error}{hint}", file=sys.stderr)
        sys.exit(1)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"headrace {__version__}")
        raise typer.Exit


def _root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Durable LLM generation behind a queue.

    Settings come from options, then HEADRACE_* variables, then headrace.toml.
    """
    if context.invoked_subcommand in _SAY_WHAT_IS_UNKNOWN:
        from .workers.known_settings import unknown

        for sentence in unknown():
            typer.echo(f"headrace: {sentence}", err=True)


if __name__ == "__main__":
    main()
