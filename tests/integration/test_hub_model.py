"""A worker is given a Hub name; the Hub is a small one of the test's own."""

import json
import threading

import pytest

from headrace import Client

from ..support.fake_hub import FakeHub, serving
from ..support.processes import flags, headrace
from ..support.waiting import wait_until

NAME = "team/tiny"
WEIGHTS = "model.safetensors"


@pytest.mark.slow
@pytest.mark.serial
def test_a_worker_says_how_far_its_download_has_come_and_serves_the_model_by_its_hub_name(
    redis_url, model, tmp_path
):
    files = {path.name: path.read_bytes() for path in model.iterdir() if path.is_file()}
    options = flags(model=NAME, device="cpu", dtype="float32", threads=1)
    held = {WEIGHTS: threading.Event()}
    with (
        serving(FakeHub({NAME: files}, held=held)) as hub,
        headrace(
            *("worker", *options),
            redis_url=redis_url,
            log=tmp_path / "log",
            ends_well=True,
            HF_ENDPOINT=hub.url,
            HF_HOME=str(tmp_path / "hf"),
            HF_HUB_OFFLINE="0",
            HF_HUB_DOWNLOAD_TIMEOUT="90",
        ) as worker,
        Client(redis_url) as client,
    ):

        def downloads() -> list[dict]:
            lines = [
                line for line in worker.said().splitlines() if line.startswith("{") and line.endswith("}")
            ]
            return [event for event in map(json.loads, lines) if event["event"] == "downloading"]

        first = wait_until(downloads)[0]
        assert first["done_bytes"] < first["total_bytes"]
        assert [each.split()[0] for each in first["arriving"]] == [WEIGHTS]
        held[WEIGHTS].set()
        wait_until(client.workers)
        job = client.enqueue("A list is", model=NAME, max_tokens=4, ignore_eos=True)
        assert job.result(timeout_s=60).usage.completion_tokens == 4
        assert hub.sent.count((WEIGHTS, 0)) == 1
