"""Jobs on a real vLLM outlive its server and its engine process."""

import os
import signal
from pathlib import Path

import pytest

from ..support.vllm import ENVIRONMENT, FLAGS, python_or_skip
from ..support.waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.serial, pytest.mark.timeout(600)]


def test_a_stream_continues_after_its_server_and_its_engine_process_are_killed(redis_url, start_worker):
    flags = " ".join(FLAGS)
    options = {"engine": "vllm", "engine_python": python_or_skip(), "dtype": "float32"}
    worker = start_worker(
        redis_url, options=options, environment=ENVIRONMENT | {"HEADRACE_ENGINE_ARGS": flags}
    )
    asked = {"prompt_token_ids": [40, 41, 42], "model": "demo", "temperature": 0, "ignore_eos": True}
    undisturbed = worker.client.enqueue(**asked, max_tokens=400).result(timeout_s=300)
    for victim in ("server", "engine process"):
        job = worker.client.enqueue(**asked, max_tokens=400)
        wait_until(lambda job=job: job.status().offset > 0)
        engine = _engine_of(worker)
        os.kill(engine if victim == "engine process" else _server_of(engine), signal.SIGKILL)
        assert job.result(timeout_s=300).token_ids == undisturbed.token_ids


def _engine_of(worker) -> int:
    """The process id of the engine process that runs now; one that was killed stays listed for a while."""
    (pid,) = {each.pid for each in worker.client.workers() if Path(f"/proc/{each.pid}").exists()}
    return pid


def _server_of(engine: int) -> int:
    """The process id of the server that an engine process started."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes()
            parent = int((path.parent / "stat").read_text().rpartition(")")[2].split()[1])
            grandparent = int(Path(f"/proc/{parent}/stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError):
            continue
        if b"vllm.entrypoints" in command and grandparent == engine:
            return int(path.parent.name)
    raise AssertionError("the engine process has no server")
