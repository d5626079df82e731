"""A checkpoint's JSON files, completed with what they may leave out.

transformers could read them too, but importing its configurations takes a second of every engine's start. A
file may leave out what equals the default of its model type, and these differ: each family's are in its file,
and the tests compare them with transformers'. Code in a checkpoint is not even looked for.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ..errors import ModelError

_OPTIONAL = {"num_key_value_heads", "head_dim", "sliding_window", "eos_token_id"}
"""Fields that may also be null."""

_MAY_BE_ZERO = {"max_window_layers", "sliding_window", "eos_token_id"}


def read_json(path: Path) -> dict[str, Any]:
    """Read the object in a JSON file.

    Raises:
        ModelError: there is no such file, or it contains something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} can't be read: {error}") from error
    if not isinstance(content, dict):
        raise ModelError(f"{path} doesn't contain a JSON object")
    return content


def read_configs(
    folder: Path, tell: Callable[[str], None] = lambda _: None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """A checkpoint's config.json, and its generation_config.json.

    The second is optional; if it is damaged, this continues without it, as transformers does.

    Args:
        folder: the checkpoint's folder.
        tell: called with a sentence if the second file can't be read.

    Raises:
        ModelError: there is no config.json, or it isn't a JSON object.
    """
    config, generation = read_json(folder / "config.json"), folder / "generation_config.json"
    if not generation.exists():
        return config, {}
    try:
        return config, read_json(generation)
    except ModelError as error:
        tell(f"{error}; the end-of-text tokens that it names are ignored")
        return config, {}


def complete(path: str, config: Mapping[str, Any], defaults: Mapping[str, Any]) -> SimpleNamespace:
    """The fields of a config.json as attributes, together with those that it leaves out.

    Args:
        path: the model's name, for messages.
        config: the file's content.
        defaults: what it may leave out.

    Raises:
        ModelError: a value has the wrong type.
    """
    source = SimpleNamespace(**{**defaults, **config})
    for name, default in defaults.items():
        _check(path, name, getattr(source, name), default)
    return source


def _check(path: str, name: str, value: Any, default: Any) -> None:
    if (value is None and name in _OPTIONAL) or (name == "eos_token_id" and isinstance(value, list)):
        return
    kind = int if default is None else type(default)
    right = isinstance(value, (int, float) if kind is float else kind) and isinstance(value, bool) is (
        kind is bool
    )
    if not right or (kind is int and value < (name not in _MAY_BE_ZERO)):
        wanted = {int: "a positive integer", float: "a number", bool: "true or false", str: "a string"}[kind]
        raise ModelError(f"{path}: config.json has {name}={value!r}; it must be {wanted}")
