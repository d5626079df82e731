"""Downloads from the Hub, by the real client from a small Hub of the test's own."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from ..support.fake_hub import FakeHub, serving
from ..support.processes import Running, running
from ..support.waiting import wait_until

MODEL = "team/tiny"
SHARDS = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
FILES = {
    "config.json": b"{}",
    "chat_template.jinja": b"{{ messages }}",
    SHARDS[0]: b"1" * 3_000_000,
    SHARDS[1]: b"2" * 24_000_000,  # the client writes 10 MiB at a time
    "consolidated.safetensors": b"the same in another layout",
    "original/model.safetensors": b"and in another",
    "pytorch_model.bin": b"a pickle",
}
WANTED = ["chat_template.jinja", "config.json", *SHARDS]


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with serving(FakeHub({MODEL: FILES})) as hub:
        yield hub


@pytest.fixture
def downloading(hub: FakeHub, tmp_path: Path) -> Callable[..., AbstractContextManager[Running]]:
    """Download the model in a process of its own, since the client reads its settings once."""

    def start(model: str = MODEL, log: str = "log", **environment: str) -> AbstractContextManager[Running]:
        told = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "0", **environment}
        told.setdefault("HF_HUB_DOWNLOAD_TIMEOUT", "90")
        return running("-m", "tests.engine.downloader", model, log=tmp_path / log, **told)

    return start


def said(process: Running) -> list[dict[str, Any]]:
    lines = process.said().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("\n")]


def last(process: Running) -> dict[str, Any]:
    wait_until(lambda: process.ended)
    return said(process)[-1]


def test_a_download_tells_how_far_each_file_has_come_and_takes_only_what_is_needed(downloading, hub):
    hub.held = {SHARDS[1]: threading.Event()}
    arriving = [{"file": SHARDS[1], "done_bytes": 10 << 20, "total_bytes": 24_000_000}]
    with downloading() as process:
        reports = wait_until(
            lambda: [r for r in said(process) if r["files_done"] == 3 and r["arriving"] == arriving]
        )
        assert reports[-1]["words"] == f"13.5 of 27.0 MB, 3 of 4 files, {SHARDS[1]} 10.5 of 24.0 MB"
        hub.held[SHARDS[1]].set()
        folder = Path(last(process)["folder"])
        assert [r["files_done"] for r in said(process)[:-1]][-1] == 4
    assert sorted(path.name for path in folder.iterdir()) == WANTED
    assert all((folder / name).read_bytes() == FILES[name] for name in WANTED)


def test_a_killed_download_keeps_what_has_arrived_and_later_needs_no_hub(downloading, hub):
    hub.held = {SHARDS[1]: threading.Event()}
    with downloading() as process:
        wait_until(lambda: [r for r in said(process) if r["files_done"] == 3 and r["arriving"]])
    hub.held.pop(SHARDS[1]).set()
    with downloading(log="again") as process:
        assert "folder" in last(process)
    assert sorted(name for name, _ in hub.sent) == sorted([*WANTED, SHARDS[1]])
    with downloading(log="offline", HF_HUB_OFFLINE="1") as process:
        assert "folder" in last(process)


def test_a_connection_that_breaks_off_is_continued_where_it_was(downloading, hub):
    hub.breaks = {SHARDS[1]: 1}
    with downloading() as process:
        folder = Path(last(process)["folder"])
    assert (folder / SHARDS[1]).read_bytes() == FILES[SHARDS[1]]
    assert [start for name, start in hub.sent if name == SHARDS[1]] == [0, 10 << 20]


def test_a_download_goes_on_after_a_try_that_brought_something_between_two_reports(downloading, hub):
    hub.breaks = {SHARDS[1]: 6}  # the client itself gives up after as many
    with downloading(EVERY_S="90") as process:
        folder = Path(last(process)["folder"])
    assert (folder / SHARDS[1]).read_bytes() == FILES[SHARDS[1]]


def test_a_gated_model_says_where_to_accept_its_terms(downloading, hub):
    hub.gated = frozenset({MODEL})
    with downloading(HF_TOKEN="hf_secret") as process:
        error = last(process)["error"]
    assert error.startswith(f"{MODEL!r} is gated: accept its terms on {hub.url}/{MODEL}")
    assert "HF_TOKEN" in error
    assert "hf_secret" not in process.said()


def test_a_model_that_does_not_fit_is_refused_before_it_is_downloaded(downloading, hub):
    hub.sizes = {SHARDS[0]: 10**18}
    with downloading() as process:
        error = last(process)["error"]
    assert error.startswith(f"{MODEL!r} needs 1000000000.0 GB more in ")
    assert error.endswith("set HF_HOME to a folder on a larger disk")
    assert hub.sent == []


@pytest.mark.parametrize(
    ("model", "environment", "says"),
    [
        ("team/none", {}, "'team/none' is neither a local folder nor a model that http://127.0.0.1"),
        (MODEL, {"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE is set, and "),
        (MODEL, {"HF_ENDPOINT": "http://127.0.0.1:9"}, "http://127.0.0.1:9 can't be reached, and "),
        ("a b/c", {}, "'a b/c' can't be downloaded"),
    ],
    ids=["unknown", "offline", "unreachable", "no name"],
)
def test_a_download_that_cannot_be_says_why_and_what_to_do(downloading, model, environment, says):
    with downloading(model, **environment) as process:
        assert last(process)["error"].startswith(says), process.said()
