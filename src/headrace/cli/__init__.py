"""The `headrace` command. Each group of commands is a module with `register(app)`, imported when needed."""

import errno
import os
import sys
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.main import get_command

from .. import __version__

_GROUPS = {
    "headrace.producers.cli.jobs": ("enqueue", "tail", "status", "result", "cancel"),
    "headrace.producers.cli.job_list": ("jobs", "retry"),
    "headrace.producers.cli.acl": ("acl",),
    "headrace.producers.cli.batch": ("batch",),
    "headrace.producers.cli.dead": ("dead",),
    "headrace.producers.cli.tenants": ("tenants",),
    "headrace.producers.cli.webhooks": ("webhooks",),
    "headrace.producers.cli.lists": ("models", "workers"),
    "headrace.producers.cli.queues": ("queues",),
    "headrace.producers.cli.keys": ("keys",),
    "headrace.producers.cli.routes": ("routes",),
    "headrace.producers.cli.adapters": ("adapters",),
    "headrace.cli.worker": ("worker",),
    "headrace.cli.callbacks": ("callbacks",),
    "headrace.cli.gateway": ("gateway",),
    "headrace.cli.local": ("up", "demo"),
    "headrace.cli.config": ("config",),
    "headrace.cli.doctor": ("doctor",),
}

_SAY_IT_THEMSELVES = ("doctor", "worker", "callbacks")
"""Commands that report unknown settings their own way: as findings, or in their logs."""


def build(arguments: list[str]) -> typer.Typer:
    """The command line with the group that `arguments` name, or with every group for help and typos."""
    app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)
    app.callback()(_root)
    wanted = next((argument for argument in arguments if not argument.startswith("-")), None)
    homes = [home for home, commands in _GROUPS.items() if wanted in commands] or list(_GROUPS)
    for home in homes:
        import_module(home).register(app)
    return app


def command(arguments: list[str]) -> Any:
    """The command that `build` makes, with flags shown in help without a value."""
    root = get_command(build(arguments))
    _show_no_values_of_flags(root, None)
    return root


def main() -> None:
    """Run the command line. An error prints one sentence to stderr and sets the exit status."""
    arguments = sys.argv[1:]
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # it was closed before the start
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115 - until the end
        getattr(sys, name).reconfigure(
            errors="replace"
        )  # a character that the locale lacks is no reason to end
    try:
        try:
            if arguments == ["--version"]:  # told without looking at any command
                print(f"headrace {__version__}")
            else:
                command(arguments)(args=arguments, prog_name="headrace")
        except SystemExit as ended:
            if ended.code:  # it has said why, which may be the full disk
                _flush_or_drop()
            raise
        finally:
            sys.stdout.flush()  # a full disk is told here, and not by the interpreter at its end
    except Exception as error:
        from ..schemas.errors import BrokerUnavailable, HeadraceError

        if isinstance(error, HeadraceError):
            away = isinstance(error, BrokerUnavailable)
            _end(
                f"{error}{' (which Redis: --redis or HEADRACE_REDIS_URL)' if away else ''}", error.exit_status
            )
        if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EIO, errno.EBADF, errno.EFBIG}:
            _drop_output()
            _end(f"{error.filename or 'standard output'}: {error.strerror}", 1)
        raise


def _end(sentence: str, status: int) -> None:
    with suppress(OSError):  # there is nowhere left to report it
        print(f"headrace: {sentence}", file=sys.stderr)
    sys.exit(status)


def _flush_or_drop() -> None:
    try:
        sys.stdout.flush()
    except OSError:
        _drop_output()


def _drop_output() -> None:
    """Discard what can't be written, so that Python doesn't try again at exit."""
    with suppress(OSError), Path(os.devnull).open("wb") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())


def _show_no_values_of_flags(each: Any, parent: Any) -> None:
    context = typer.Context(each, info_name=each.name, parent=parent)
    for parameter in each.get_params(context):
        if getattr(parameter, "is_flag", False) and parameter.metavar is None:
            parameter.metavar = ""
    for inner in getattr(each, "commands", {}).values():
        _show_no_values_of_flags(inner, context)


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
    if context.invoked_subcommand not in _SAY_IT_THEMSELVES:
        from ..schemas.errors import BadSetting
        from ..workers.known_settings import unknown

        with suppress(BadSetting):  # a file that can't be read is an error of who needs it, and not of --help
            for sentence in unknown():
                typer.echo(f"headrace: {sentence}", err=True)
