"""Names that look like settings but aren't: a typo would otherwise silently do nothing."""

import os
from collections.abc import Collection
from difflib import get_close_matches

from .common import ENV_PREFIX, config_file, read_config_file

_NO_SETTINGS = frozenset({"config", "no_compile"})
"""Variables that are read elsewhere and can't be set in the file."""


def unknown_settings(known: Collection[str]) -> list[str]:
    """A sentence for each `HEADRACE_*` variable and each key of `headrace.toml` that isn't in `known`.

    Raises:
        BadSetting: the file can't be read.
    """
    variables = sorted(name for name in os.environ if name.upper().startswith(ENV_PREFIX))
    found = [
        f"{name} is not a setting and does nothing{_meant(name[len(ENV_PREFIX) :], known, ENV_PREFIX)}"
        for name in variables
        if name[len(ENV_PREFIX) :].lower() not in {*known, *_NO_SETTINGS}
    ]
    for name, value in sorted(read_config_file().items()):
        if name not in known:
            meant = (
                "; settings belong at the top, not in a table"
                if isinstance(value, dict)
                else _meant(name, known)
            )
            found.append(f"{config_file()} sets {name}, which is not a setting and does nothing{meant}")
    return found


def _meant(name: str, known: Collection[str], prefix: str = "") -> str:
    close = get_close_matches(name.lower().replace("-", "_"), known, n=1)
    if not close:
        return "; headrace config lists all settings"
    return f"; did you mean {prefix}{close[0].upper() if prefix else close[0]}?"
