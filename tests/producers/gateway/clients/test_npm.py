"""Clients from npm, where Node is, and NODE_PATH names a folder with them."""

import json
import os
import shutil
from pathlib import Path

import pytest

HERE = Path(__file__).parent
NODE = shutil.which("node")
PACKAGES = Path(os.environ.get("NODE_PATH") or "nowhere")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.serial,
    pytest.mark.timeout(400),
    pytest.mark.xdist_group("gateway"),
    pytest.mark.skipif(NODE is None, reason="Node is not installed"),
]


@pytest.mark.parametrize(("program", "package"), [("openai.mjs", "openai"), ("ai_sdk.mjs", "ai")])
def test_an_npm_client_gets_all_that_it_asks_for(program, package, run, tmp_path):
    installed = PACKAGES / package / "package.json"
    if not installed.is_file():
        pytest.skip(f"NODE_PATH has no package {package}")
    wanted = json.loads((HERE / "package.json").read_text())["dependencies"][package]
    assert json.loads(installed.read_text())["version"] == wanted
    (tmp_path / "node_modules").symlink_to(PACKAGES)  # imports do not look at NODE_PATH
    shutil.copy(HERE / program, tmp_path)
    run(NODE, "--test-reporter=spec", program, folder=tmp_path)
