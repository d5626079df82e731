"""A worker computes with the engine that it is told to."""

import os
from pathlib import Path

import pytest

pytestmark = [pytest.mark.serial, pytest.mark.timeout(300)]

ROOT = Path(__file__).parents[2]


def test_a_worker_serves_an_installed_packages_engine(redis_url, redis, start_worker, tmp_path):
    installed = tmp_path / "counting-1.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: counting\nVersion: 1\n")
    (installed / "entry_points.txt").write_text(
        "[headrace.engines]\ncounting = tests.engine.counting_engine:CountingEngine\n"
    )
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    worker = start_worker(redis_url, options={"engine": "counting"}, environment={"PYTHONPATH": path})
    job = worker.client.enqueue(prompt_token_ids=[40, 41], model="demo", max_tokens=8, ignore_eos=True)
    assert list(job.result(timeout_s=60).token_ids) == [42, 43, 44, 45, 46, 47, 48, 49]


def test_an_unknown_engine_ends_the_worker_with_those_that_exist(redis_url, start_worker):
    worker = start_worker(redis_url, options={"engine": "nobodys"}, ready=False)
    assert worker.process.wait(timeout=120) == 1
    assert "there is no engine 'nobodys', only: headrace" in worker.log.read_text()
