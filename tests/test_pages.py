"""README and the guides, typed as they are printed by somebody who has just started `headrace up`."""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.test_docs import ROOT, blocks

pytestmark = [pytest.mark.serial, pytest.mark.timeout(300), pytest.mark.xdist_group("pages")]

NODE = shutil.which("node")
PACKAGES = Path(os.environ.get("NODE_PATH") or "nowhere")

README = ROOT / "README.md"
PAGES = [README, *(ROOT / "docs" / f"{name}.md" for name in ("client", "admin", "http"))]
ELSEWHERE = ("make", "pip")
"""What begins with these installs something, or is run by tests of its own."""


def shell(page: Path) -> list[str]:
    """The page's commands that are meant for a running `headrace up`."""
    return [
        block
        for block in blocks(page, "sh")
        if block.split()[0] not in ELSEWHERE and block != "headrace up\n"
    ]


def environment(**variables: str) -> dict[str, str]:
    """That of a shell in which the environment with headrace is active."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("HEADRACE_RE")}
    return inherited | {"PATH": path, "NO_COLOR": "1", "TERM": "dumb"} | variables


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """What the line that `headrace up` prints exports, while it runs."""
    assert "headrace up\n" in blocks(README, "sh")
    with subprocess.Popen(
        ["bash", "-c", "headrace up\n"],
        cwd=tmp_path_factory.mktemp("up"),
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            assert process.stdout is not None
            shown = ""
            while "Ctrl-C" not in shown and (line := process.stdout.readline()):
                shown += line
            lines = re.findall(r"^ *export (.*)$", shown, re.MULTILINE)
            assert len(lines) == 2, shown
            found = [setting.split("=", 1) for line in lines for setting in line.split()]
            yield dict(found)
        finally:
            os.killpg(process.pid, signal.SIGINT)  # as a terminal does


def run(command: list[str], folder: Path, exported: dict[str, str]) -> str:
    done = subprocess.run(
        command, cwd=folder, env=environment(**exported), capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_pages_commands_run_as_printed(page, tmp_path, exported):
    for block in shell(page):
        assert run(["bash", "-euo", "pipefail", "-c", block], tmp_path, exported).strip(), block


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_pages_python_runs_in_order_as_printed(page, tmp_path, exported):
    script = tmp_path / "page.py"
    script.write_text("".join(blocks(page, "python")))
    shown = run([sys.executable, str(script)], tmp_path, exported)
    if page is README:
        assert re.search(r"(stop|length): \d+ tokens in", shown), shown


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "js")], ids=lambda page: page.name)
@pytest.mark.skipif(NODE is None, reason="Node is not installed")
def test_the_pages_javascript_runs_in_order_as_printed(page, tmp_path, exported):
    if not (PACKAGES / "openai").is_dir():
        pytest.skip("NODE_PATH has no package openai")
    (tmp_path / "node_modules").symlink_to(PACKAGES)  # imports do not look at NODE_PATH
    (tmp_path / "page.mjs").write_text("".join(blocks(page, "js")))
    assert run([NODE, "page.mjs"], tmp_path, exported).strip()
