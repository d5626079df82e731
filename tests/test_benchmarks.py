"""The benchmarks run, at sizes that say nothing about speed, and the page shows what the results give."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def run(module: str, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{module}", *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=150,
    )
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.serial
def test_engines_are_compared_in_one_run(tmp_path):
    done = run(
        "engine",
        *("--model", "tiny", "--requests", 4, "--threads", 1, "--rounds", 1, "--step-tokens", 64),
        *("--only", "headrace", "transformers_static", "vllm", "--json", tmp_path),
        PEERS_DIR=str(tmp_path),
    )
    (file,) = tmp_path.glob("*-engine-tiny.json")
    facts = json.loads(file.read_text())
    assert facts["lost"] == {"vllm": "not installed: make peers"}
    for name in ("headrace", "transformers_static"):
        assert facts["seconds"][name].keys() == facts["cases"].keys()
        assert all(seconds > 0 for runs in facts["seconds"][name].values() for seconds in runs)
    assert "headrace against it" in done.stdout
    assert "vLLM: not measured: not installed" in done.stdout
    page = tmp_path / "page.md"
    run("report", "--results", tmp_path, "--page", page)
    assert done.stdout.strip() in page.read_text()
    assert "Nothing is claimed" in page.read_text()


@pytest.mark.serial
def test_every_operation_is_compared_with_its_reference(tmp_path):
    run("kernels", "--small", "--threads", 1, "--json", tmp_path)
    (file,) = tmp_path.glob("*-kernels-cpu.json")
    rows = json.loads(file.read_text())["rows"]
    assert not [name for name, row in rows.items() if "failed" in row]
    assert all(row["error"] < 1e-2 and row["seconds"] > 0 for row in rows.values())


@pytest.mark.serial
def test_ways_of_launching_steps_are_compared(tmp_path):
    sizes = ("--model", "tiny", "--requests", 2, "--steps", 20, "--rounds", 1, "--threads", 1)
    run("steps", *sizes, "--json", tmp_path / "steps.json")
    rows = json.loads((tmp_path / "steps.json").read_text())["rows"]
    assert [row["way"] for row in rows] == ["plain", "overlapped"]
    assert all(0 < row["host_s"] < row["step_s"] for row in rows)


@pytest.mark.serial
def test_the_service_is_compared_with_the_bare_engine(tmp_path):
    done = run(
        "service", "--model", "tiny", "--requests", 8, "--threads", 1, "--rounds", 1, "--json", tmp_path
    )
    (file,) = tmp_path.glob("*-service-tiny.json")
    assert json.loads(file.read_text())["redis"]["scripts"] > 0
    assert "of the bare engine" in done.stdout


@pytest.mark.serial
def test_streams_are_measured_beside_long_prompts_without_and_with_an_objective(tmp_path):
    done = run(
        "pacing",
        *("--model", "tiny", "--streams", 3, "--prompts", 1, "--prompt-tokens", 300, "--step-tokens", 64),
        *("--threads", 1, "--rounds", 1, "--json", tmp_path),
    )
    (file,) = tmp_path.glob("*-pacing-tiny.json")
    facts = json.loads(file.read_text())
    assert all(each["gaps"] > 0 for rounds in facts["rounds"].values() for each in rounds)
    assert facts["objective_s"] == pytest.approx(4 * facts["calm_s"])
    assert "99th percentile" in done.stdout


def test_the_page_is_what_the_results_give():
    run("report", "--check")
