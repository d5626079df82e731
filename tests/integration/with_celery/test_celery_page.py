"""docs/celery.md: its blocks run as they stand, its pictures are of what a browser shows."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.support.waiting import wait_until

from headrace.schemas.settings.celery import CelerySettings
from headrace.workers.celery_worker.control import drain, kv_stats

from .conftest import Installation

pytestmark = [
    pytest.mark.serial,
    pytest.mark.xdist_group("celery"),  # they share an installation
    pytest.mark.filterwarnings("ignore:Call to deprecated setex"),  # Celery's result backend, with redis-py 8
]

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "celery.md").read_text()
BROWSER = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--virtual-time-budget=5000"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def test_the_pages_python_runs_in_order_as_it_stands(installation: Installation, capsys):
    team = installation.team
    names = {"app": team.app, "store": team.shout, "collect": team.join, "complain": team.note_error}
    for block in blocks("python")[1:]:  # the first makes an app of its own
        exec(compile(block, "celery.md", "exec"), names)
    assert "succeeded 64" in capsys.readouterr().out or names["final"]["finish_reason"] == "stop"
    wait_until(lambda: not any(worker.running for worker in installation.client.workers()), 60)


IN_ANOTHER_PROCESS = """
import sys, types
from celery import Celery
sys.modules["shop"] = types.ModuleType("shop")
sys.modules["shop.tasks"] = types.ModuleType("shop.tasks")
broker_url = result_backend = "memory://"
exec(sys.argv[1])
app.loader.import_default_modules()
print("headrace.generate" in app.tasks)
"""


def test_an_app_made_as_the_page_begins_knows_generate():
    code = blocks("python")[0]
    found = subprocess.run(
        [sys.executable, "-c", IN_ANOTHER_PROCESS, code], capture_output=True, text=True, check=True
    )
    assert found.stdout == "True\n"


def test_the_pages_commands_are_understood(installation: Installation):
    (commands,) = (block for block in blocks("sh") if "inspect" in block)
    for line in commands.replace("headrace@gpu-1-4711", installation.host).splitlines():
        program, *arguments = shlex.split(line)
        assert program == "celery"
        if "-d" not in arguments:  # else it waits out its time for more hosts to answer
            arguments += ["-d", installation.host]
        done = subprocess.run(
            [sys.executable, "-m", "celery", *arguments, "--timeout", "20"],
            env=os.environ | installation.environment,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert installation.host in done.stdout, line
    wait_until(installation.client.workers)


def test_the_page_names_what_there_is():
    commands = {drain.__name__, "undrain", "cancel", kv_stats.__name__}
    assert commands <= set(re.findall(r"`(?:inspect|control) (\w+)", PAGE))
    for name in (
        "celery_broker_url",
        "celery_broker_transport_options",
        "celery_result_backend",
        "show_prompts",
    ):
        assert name in CelerySettings.model_fields
        assert f"HEADRACE_{name.upper()}" in PAGE


@pytest.mark.parametrize("page", ["workers", "tasks"])
def test_flowers_pages_show_hosts_and_generations_in_a_browser(installation: Installation, tmp_path, page):
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("there is no chromium on the PATH")
    job = installation.client.enqueue("A list is", model="demo", max_tokens=4)
    job.result(timeout_s=30)
    wait_until(lambda: installation.flower("tasks").get(job.id, {}).get("state") == "SUCCESS", 20)
    url = f"http://127.0.0.1:{installation.flower_port}/{page}"
    found = subprocess.run(
        [browser, *BROWSER, f"--user-data-dir={tmp_path}", "--dump-dom", url],
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
    ).stdout
    shown = {"workers": [installation.host, "callbacks@"], "tasks": ["headrace.generate", job.id, "SUCCESS"]}
    for text in shown[page]:
        assert text in found
