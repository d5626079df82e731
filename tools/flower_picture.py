"""Take the pictures of Flower that docs/celery.md shows: `python tools/flower_picture.py [FOLDER]`.

Starts a stack with the built-in model, runs generations to their various ends, and has headless Chromium take
Flower's pages. Needs chromium on the PATH and headrace[all].
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from headrace import Client
from headrace.cli.local import flower_port
from headrace.local.stack import stack

PROMPTS = (
    "A dictionary is",
    "To open a file,",
    "The with statement is used to",
    "A generator is a function that",
    "A list comprehension",
    "When an exception is raised,",
)
PAGES = {"workers": (1280, 520), "tasks": (1480, 860)}
"""What is taken, and the window's size in pixels."""

BROWSER = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    "--virtual-time-budget=5000",  # the pages fill themselves by requests of their own
)


def take(browser: str, url: str, size: tuple[int, int], to: Path) -> None:
    """A picture of a page, as PNG."""
    with tempfile.TemporaryDirectory() as profile:
        window = f"--window-size={size[0]},{size[1]}"
        where = (f"--user-data-dir={profile}", window, f"--screenshot={to}", url)
        subprocess.run([browser, *BROWSER, *where], check=True, timeout=120, stderr=subprocess.DEVNULL)


def states(flower_url: str) -> list[str]:
    """The states of the tasks that Flower knows."""
    with urllib.request.urlopen(f"{flower_url}/api/tasks", timeout=20) as reply:
        return [task["state"] for task in json.loads(reply.read()).values()]


def main(folder: Path) -> None:
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        sys.exit("flower_picture: there is no chromium on the PATH")
    # Only here may everybody ask Flower what it knows: it listens on loopback, and for a minute.
    os.environ |= {"FLOWER_UNAUTHENTICATED_API": "true", "HEADRACE_SHOW_PROMPTS": "start"}
    os.environ["FLOWER_TASKS_COLUMNS"] = "name,state,kwargs,result,runtime,worker"
    worker_args = ["--model", "demo", "--device", "cpu"]
    with (
        tempfile.TemporaryDirectory() as data,
        stack(Path(data), worker_args=worker_args, callbacks_args=[], flower_port=flower_port()) as running,
        Client(running.redis_url) as client,
    ):
        running.wait_ready(client)
        for prompt in PROMPTS:
            client.enqueue(prompt, model="demo", max_tokens=48).result(timeout_s=60)
        client.enqueue("word " * 3_000, model="demo", max_tokens=48)
        revoked, *_ = (client.enqueue(p, model="demo", max_tokens=1800, ignore_eos=True) for p in PROMPTS)
        next(revoked.stream())
        revoked.cancel()
        wanted = {"SUCCESS": 6, "FAILURE": 1, "REVOKED": 1, "STARTED": 5}
        while any(states(running.flower_url).count(state) != number for state, number in wanted.items()):
            running.check()
            time.sleep(0.2)
        folder.mkdir(parents=True, exist_ok=True)
        for page, size in PAGES.items():
            take(browser, f"{running.flower_url}/{page}", size, folder / f"flower-{page}.png")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "docs/images"))
