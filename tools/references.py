"""Writes the references that are made of the code: to be run after a change of what they say.

docs/cli.md from the commands, docs/settings.md from the settings' classes, docs/errors.md from the errors.
"""

import ast
import inspect
import re
import sys
import textwrap
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any

import typer
from pydantic_core import PydanticUndefined

from headrace.cli import command
from headrace.schemas import errors
from headrace.schemas.events import FailureCode
from headrace.schemas.settings.celery import CelerySettings
from headrace.schemas.settings.common import CommonSettings
from headrace.workers.settings import CallbacksSettings, WorkerSettings

DOCS = Path(__file__).parents[1] / "docs"

WIDTH = 118

STATUSES = {
    0: "done",
    1: "anything else: a file that can't be written, something that `doctor` found, errors among a batch's "
    "answers, a defect",
    2: "wrong usage: an option, an argument, a field of the job, a setting",
    3: "there is no such job, worker, delivery or model",
    4: "the job failed",
    5: "the job was cancelled",
    6: "the job expired",
    7: "refused for now, as the queue is full or a rate is used up: try again later",
    8: "Redis can't be reached, or refuses",
    9: "the job has not ended in the time given; it goes on",
    10: "the idempotency key belongs to another job",
    11: "the stream was reset: Redis lost tokens that were seen",
    12: "missing or wrong credentials",
    130: "interrupted by Ctrl-C; what to go on with is said",
}

CLI = """# Command line

<!-- made by tools/references.py: change the commands' own texts -->

Every command takes `--help`. Settings come from options, then `HEADRACE_*` variables, then `headrace.toml`
([settings.md](settings.md)). Lists are tables on a terminal and lines with tabs elsewhere; `--json` is for
programs. What is asked for goes to standard output, all else to standard error; an error is one sentence.

`headrace --install-completion` lets your shell complete commands and options.

## Exit status

| status | means |
| --- | --- |
{statuses}
"""

SETTINGS = """# Settings

<!-- made by tools/references.py: change the descriptions in the settings' classes -->

A setting is given by a command's option, else by the variable `HEADRACE_` and its name in capitals, else by
a line `name = value` of `headrace.toml` in the current folder, or of the file that `HEADRACE_CONFIG` names.
`headrace config` shows the effective ones and where each came from. A wrong value is refused at the start; a
name that is no setting is said by every command, workers and callbacks in their logs. Lists have commas in
options and variables. Names that end in `_s` are seconds, in `_ms` milliseconds, in `_bytes` bytes.

The Python client reads them with `Client.from_env()` only.
"""

ERRORS = """# Errors

<!-- made by tools/references.py: change the errors' own texts -->

All errors are of one tree, below `HeadraceError`; `headrace` exports those that a client raises. The `code`
is stable, for programs; the message names the value and the way out. The exit status is that of the command
line ([cli.md](cli.md)).

| error | `code` | HTTP | exit | meaning |
| --- | --- | --- | --- | --- |
{errors}

## Why a job failed

A job that could not be done ends `failed`; `JobFailed.reason`, the `error` of its status and of its webhook
have one of these codes.

| code | meaning |
| --- | --- |
{failures}
"""


def cli_page() -> str:
    """The page of all commands."""
    statuses = "\n".join(f"| {status} | {meaning} |" for status, meaning in STATUSES.items())
    root = command([])
    return CLI.format(statuses=statuses) + "".join(_commands(root, None, "headrace"))


def _commands(each: Any, parent: Any, name: str) -> Iterator[str]:
    context = typer.Context(each, info_name=name.rpartition(" ")[2], parent=parent)
    inner = getattr(each, "commands", {})
    if parent is not None and (not inner or each.callback is not None):
        yield f"\n## `{name}{_arguments(each, context)}`\n\n{_text(each.help or '')}\n"
        yield from _options(each, context)
    for word, found in inner.items():
        yield from _commands(found, context, f"{name} {word}")


def _arguments(each: Any, context: Any) -> str:
    names = [
        _name(parameter) for parameter in each.get_params(context) if parameter.param_type_name == "argument"
    ]
    return "".join(f" {name}" for name in names)


def _name(argument: Any) -> str:
    name = argument.metavar or argument.name.upper()
    return name if argument.required or name.startswith("[") else f"[{name}]"


def _options(each: Any, context: Any) -> Iterator[str]:
    rows = []
    for parameter in each.get_params(context):
        if parameter.name == "help":
            continue
        if parameter.param_type_name == "argument":
            shown, default = f"`{_name(parameter)}`", ""
        else:
            value = "" if parameter.is_flag else f" {_value(parameter)}"
            shown = ", ".join(f"`{flag}{value}`" for flag in (*parameter.opts, *parameter.secondary_opts))
            default = _default(parameter)
        rows.append(f"| {shown} | {default} | {_cell(parameter.help or '')} |\n")
    if rows:
        yield "\n| option | default | meaning |\n| --- | --- | --- |\n"
        yield from rows


def _value(option: Any) -> str:
    return option.metavar or option.opts[0].lstrip("-").upper().replace("-", "_")


def _default(option: Any) -> str:
    value = option.default
    if option.required:
        return "required"
    if (
        value is None
        or callable(value)
        or value == ""
        or type(value).__name__ == "Sentinel"
        or value is False
    ):
        return ""
    if value is True:
        return "yes"
    return f"`{value.value if isinstance(value, Enum) else value}`"


def settings_page() -> str:
    """The page of all settings."""
    of_whom = {
        CommonSettings: "Every process",
        CelerySettings: "Whatever meets Celery: `generate`, workers, callbacks",
        WorkerSettings: "`headrace worker`",
        CallbacksSettings: "`headrace callbacks`",
    }
    return SETTINGS + "".join(_settings(kind, title) for kind, title in of_whom.items())


def _settings(kind: Any, title: str) -> str:
    said = descriptions(kind)
    own = [name for name in kind.model_fields if name in inspect.get_annotations(kind)]
    rows = "".join(
        f"| `{name}` | {_shown(kind.model_fields[name])} | {_cell(said[name])} |\n" for name in own
    )
    return f"\n## {title}\n\n| setting | default | meaning |\n| --- | --- | --- |\n{rows}"


def descriptions(kind: type) -> dict[str, str]:
    """What a class says of its attributes in its docstring, by name."""
    section = (inspect.cleandoc(kind.__doc__ or "").partition("Attributes:\n")[2] + "\n").partition("\n\n")[0]
    entries = re.split(r"^(?=\w+: )", textwrap.dedent(section), flags=re.MULTILINE)
    return {
        name: " ".join(text.split())
        for name, _, text in (entry.partition(": ") for entry in entries)
        if name.strip()
    }


def _shown(field: Any) -> str:
    value = field.get_default(call_default_factory=True)
    if value is PydanticUndefined or value is None or value in ("", (), {}):
        return ""
    if isinstance(value, tuple):
        value = ",".join(getattr(each, "value", str(each)) for each in value)
    if isinstance(value, bool):
        value = str(value).lower()
    return f"`{int(value) if isinstance(value, float) and value.is_integer() else value}`"


def errors_page() -> str:
    """The page of all errors."""
    rows = [
        f"| `{kind.__name__}` | `{kind.code}` | {kind.http_status} | {kind.exit_status} "
        f"| {_first(kind.__doc__)} |"
        for kind in _leaves(errors.HeadraceError)
    ]
    reasons = [f"| `{code.value}` | {_cell(meaning)} |" for code, meaning in _members(FailureCode)]
    return ERRORS.format(errors="\n".join(rows), failures="\n".join(reasons))


def _leaves(kind: type[errors.HeadraceError]) -> Iterator[type[errors.HeadraceError]]:
    for each in kind.__subclasses__():
        if each.__module__ == errors.__name__:
            if not each.__name__.startswith("_"):
                yield each
            yield from _leaves(each)


def _members(kind: type[Enum]) -> Iterator[tuple[Enum, str]]:
    """The members of an enum, each with the text below it."""
    (body,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(body, ast.ClassDef)
    for line, below in zip(body.body, body.body[1:], strict=False):
        if isinstance(line, ast.Assign):
            yield kind[line.targets[0].id], ast.literal_eval(below.value)  # type: ignore[attr-defined]


def _first(text: str | None) -> str:
    return _cell(inspect.cleandoc(text or "").partition("\n\n")[0])


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _text(text: str) -> str:
    paragraphs = inspect.cleandoc(text).split("\n\n")
    return "\n\n".join(textwrap.fill(" ".join(paragraph.split()), WIDTH) for paragraph in paragraphs)


PAGES = {"cli.md": cli_page, "settings.md": settings_page, "errors.md": errors_page}

if __name__ == "__main__":
    for name, page in PAGES.items():
        (DOCS / name).write_text(page())
    print(f"wrote {', '.join(PAGES)}", file=sys.stderr)
