"""A folder a process, and a name a class: whoever looks for something finds one thing."""

import ast
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SHARED = {"__init__.py", "ended_jobs.py", "known_settings.py", "metrics.py", "models.py", "settings.py"}
PROCESSES = {"engine_process", "host", "callbacks"}
THEIRS = {"celery_worker", "supervision", "demo_model"}
"""What two of the processes share, and the built-in model."""


def entries(folder: str) -> set[str]:
    return {path.name for path in (ROOT / folder).iterdir() if path.suffix == ".py" or holds_sources(path)}


def holds_sources(path: Path) -> bool:
    return path.is_dir() and any(file for file in path.rglob("*") if file.suffix in {".py", ".json"})


def test_no_file_lies_loose_in_workers():
    assert entries("workers") == SHARED | PROCESSES | THEIRS


@pytest.mark.parametrize("folder", ["engine_process", "host", "callbacks", "celery_worker", "supervision"])
def test_every_folder_of_workers_says_what_it_is(folder):
    text = (ROOT / "workers" / folder / "__init__.py").read_text()
    assert text.startswith('"""')


def test_no_two_classes_share_a_name():
    packages = ("schemas", "producers", "workers", "engine", "kernels", "telemetry", "src/headrace")
    trees = (ast.parse(path.read_text()) for package in packages for path in (ROOT / package).rglob("*.py"))
    classes = Counter(
        node.name for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ClassDef)
    )
    assert len(classes) > 200
    assert [name for name, count in classes.items() if count > 1] == []
