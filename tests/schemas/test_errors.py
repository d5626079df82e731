"""Errors form one tree, travel between processes, and say the same on the other side."""

import ast
import builtins
import json
import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest

from headrace.schemas import errors

EXAMPLES = [
    errors.HeadraceError("something"),
    errors.BadSetting("setting redis_url = 'x': is not a Redis URL"),
    errors.InvalidJob("max_tokens", "must be above 0"),
    errors.UnknownModel("m", ["demo"]),
    errors.QueueFull("standard:t of m", 3, 300, 7.5),
    errors.RateLimited("t", 60, "requests a minute of m", 12.0),
    errors.Unauthorized("no key"),
    errors.IdempotencyConflict("key", "job"),
    errors.JobsRefused([errors.InvalidJob("prompt", "is missing")]),
    errors.JobNotFound("job"),
    errors.WorkerNotFound("worker-", ["worker-1", "worker-2"]),
    errors.ModelInUse("m", "2 of its workers live"),
    errors.DeliveryNotFound("msg_1"),
    errors.StoredFileNotFound("file-1"),
    errors.BatchNotFound("batch_1"),
    errors.FileTooLarge(1000),
    errors.LimitReached("t", "max_files", 3),
    errors.FilesUnavailable("no room"),
    errors.BadPolicy("weight = 0: must be above 0"),
    errors.JobFailed("job", "crashed", "its worker died"),
    errors.JobCancelled("job"),
    errors.JobExpired("job"),
    errors.StreamReset("job", 7, 5),
    errors.RecordDamaged("job"),
    errors.ResultTimeout("job", 1.5),
    errors.BrokerUnavailable("gone"),
    errors.StackError("worker ended with status 1"),
    errors.EmbeddedRedisError("no free TCP port"),
    errors.DemoFailed("no engine was killed"),
]


def test_every_error_has_an_example_here():
    leaves = {
        kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)
    }
    assert {type(error) for error in EXAMPLES} == {
        kind for kind in leaves if not kind.__name__.startswith("_")
    }


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_an_error_is_the_same_after_a_pickle(error):
    twin = pickle.loads(pickle.dumps(error))
    assert (type(twin), str(twin), twin.code) == (type(error), str(error), error.code)


@pytest.mark.parametrize("error", EXAMPLES[10:23], ids=lambda error: type(error).__name__)
def test_an_error_of_a_job_is_made_again_from_json_as_celery_does(error):
    twin = type(error)(*json.loads(json.dumps(error.args)))
    assert str(twin) == str(error)


ROOT = Path(errors.__file__).resolve().parents[1]
PACKAGES = ("schemas", "producers", "workers", "engine", "kernels", "telemetry", "src/headrace")
TREE, OF_THE_ENGINE = ROOT / "schemas" / "errors.py", ROOT / "engine" / "errors.py"


@pytest.fixture(scope="module")
def nodes() -> list[tuple[Path, ast.AST]]:
    paths = (path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py")))
    return [(path, node) for path in paths for node in ast.walk(ast.parse(path.read_text()))]


def names(*expressions: ast.AST | None) -> set[str]:
    """The names that expressions mention, without their modules."""
    found = [node for expression in expressions if expression is not None for node in ast.walk(expression)]
    return {node.id for node in found if isinstance(node, ast.Name)} | {
        node.attr for node in found if isinstance(node, ast.Attribute)
    }


def caught(node: ast.AST) -> set[str]:
    """What an except clause, a `suppress(...)` or an `isinstance(...)` names."""
    if isinstance(node, ast.ExceptHandler):
        return names(node.type)
    return (
        names(*node.args)
        if isinstance(node, ast.Call) and names(node.func) & {"suppress", "isinstance"}
        else set()
    )


def exceptions(nodes: list[tuple[Path, ast.AST]]) -> Iterator[tuple[str, Path]]:
    """Every exception class and its file, in whichever order they derive from each other."""
    classes = [(path, node) for path, node in nodes if isinstance(node, ast.ClassDef)]
    known = {
        name
        for name, kind in vars(builtins).items()
        if isinstance(kind, type) and issubclass(kind, Exception)
    }
    while more := {node.name for _, node in classes if names(*node.bases) & known} - known:
        known |= more
    return ((node.name, path) for path, node in classes if node.name in known)


def test_an_error_outside_the_tree_is_caught_by_the_package_that_raises_it(nodes):
    def place(path: Path) -> str:
        return path.relative_to(ROOT).parts[0]

    stopped = {(place(path), name) for path, node in nodes for name in caught(node)}
    loose = {(place(path), name) for name, path in exceptions(nodes) if path not in {TREE, OF_THE_ENGINE}}
    assert len(loose) > 5
    assert loose - stopped == set(), "raise an error of schemas/errors.py, or catch it where it is raised"


def test_no_error_of_the_tree_is_unused(nodes):
    calls = (node for path, node in nodes if path != TREE and isinstance(node, ast.Call))
    made = {name for call in calls for name in names(call.func)}
    leaves = {type(error).__name__ for error in EXAMPLES} - {"HeadraceError"}
    assert leaves - made == set()
