"""The JSON Schema Test Suite (MIT), from the source distribution of `jsonschema` on PyPI, fetched once.

Nothing of it is part of the project or of what it installs.
"""

import json
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

RELEASE = "4.26.0"
DRAFT = "draft2020-12"


def cases_or_skip() -> Iterator[tuple[str, dict[str, Any]]]:
    """Each case with the name of its file; skips the test, with the reason, where it can't be had."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "headrace"
    archive = base / f"jsonschema-{RELEASE}.tar.gz"
    if not archive.exists():
        base.mkdir(parents=True, exist_ok=True)
        _fetch(archive)
    within = f"jsonschema-{RELEASE}/json/tests/{DRAFT}/"
    with tarfile.open(archive) as files:
        for name in sorted(name for name in files.getnames() if name.startswith(within)):
            if name.endswith(".json") and (file := files.extractfile(name)) is not None:
                for case in json.load(file):
                    yield name.removeprefix(within).removesuffix(".json"), case


def _fetch(archive: Path) -> None:
    with tempfile.TemporaryDirectory(dir=archive.parent, prefix="json-schema-suite-") as folder:
        options = ("--no-deps", "--quiet", "--no-binary", "jsonschema", "--dest", folder)
        command = [sys.executable, "-m", "pip", "download", *options, f"jsonschema=={RELEASE}"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=150)
        except subprocess.TimeoutExpired:
            pytest.skip(f"jsonschema {RELEASE} could not be fetched within 150 s")
        if done.returncode:
            pytest.skip(f"jsonschema {RELEASE} can't be fetched: {done.stderr.strip().splitlines()[-1:]}")
        (Path(folder) / archive.name).rename(archive)
