"""Print the tests of what differs from main: what `make check` runs.

A test file is its own; a module has the tests named after it, or else those of its package.
"""

import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[1]
TESTS = ROOT / "tests"
PACKAGES = ("schemas", "producers", "workers", "engine", "kernels", "telemetry")


def git(*arguments: str) -> list[str]:
    return subprocess.run(
        ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()


def tests_of(path: Path) -> list[Path]:
    top = path.parts[0]
    if top == "tests":
        return [path] if path.name.startswith("test_") else []
    if path.suffix == ".md":
        return [Path("tests/test_docs.py"), Path("tests/test_pages.py"), Path("tests/test_references.py")]
    if top in PACKAGES:
        named = sorted((TESTS / top).rglob(f"test_{path.stem}.py"))
        return [found.relative_to(ROOT) for found in named] or [Path("tests", top)]
    if top == "src":
        of_all = [found.relative_to(ROOT) for found in TESTS.glob("test_*.py")]
        return [*of_all, Path("tests", *path.parts[2:3])]
    return []


def main() -> None:
    changed = git("diff", "--name-only", "--merge-base", "main") + git(
        "ls-files", "--others", "--exclude-standard"
    )
    wanted = {test for path in changed for test in tests_of(Path(path)) if (ROOT / test).exists()}
    print(*sorted(str(test) for test in wanted if not wanted.intersection(test.parents)))


if __name__ == "__main__":
    main()
