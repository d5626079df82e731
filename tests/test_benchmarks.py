"""The benchmarks run, at sizes that say nothing about speed, and the page shows what the results give."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from benchmarks import tables
from benchmarks.machine import machine
from benchmarks.scripts.crowd import SEVERAL, Crowd
from benchmarks.scripts.measuring import commands, measure

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


def page_of(results: Path) -> str:
    """What is made of the results."""
    page = results / "page.md"
    run("report", "--results", results, "--page", page)
    return page.read_text()


@pytest.mark.slow
def test_embeddings_are_compared_with_a_plain_loop_in_one_run(tmp_path):
    done = run("embeddings", "--texts", 4, "--rounds", 1, "--json", tmp_path)
    (file,) = tmp_path.glob("*-embeddings.json")
    facts = json.loads(file.read_text())
    assert all(seconds > 0 for runs in facts["seconds"].values() for seconds in runs)
    assert f"headrace against it: {facts['ratio']:.2f}" in done.stdout


@pytest.mark.slow
def test_a_batch_under_adapters_is_compared_with_the_base(tmp_path):
    sizes = ("--model", "tiny", "--batch", 4, "--adapters", 2, "--rank", 4, "--threads", 1, "--rounds", 1)
    done = run("adapters", *sizes, "--json", tmp_path)
    (file,) = tmp_path.glob("*-adapters-tiny.json")
    cases = json.loads(file.read_text())["tokens_s"]
    assert all(rate > 0 for case in cases.values() for rate in case.values())
    assert "2 adapters and the base" in done.stdout


@pytest.mark.slow
def test_deterministic_mode_is_compared_with_the_default(tmp_path):
    done = run("determinism", "--model", "tiny", "--threads", 1, "--rounds", 1, "--json", tmp_path)
    (file,) = tmp_path.glob("*-determinism-tiny.json")
    for modes in json.loads(file.read_text())["dtypes"].values():
        assert modes["deterministic"]["same"] == [1, 2, 8, 44, 64, 256]
    assert done.stdout.strip() in page_of(tmp_path)


@pytest.mark.slow
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
    assert "| prefill, steps of 64 tokens |" in done.stdout
    assert "| decode, steps of 4 |" in done.stdout
    assert "vLLM: not measured: not installed" in done.stdout
    page = page_of(tmp_path)
    assert done.stdout.strip() in page
    assert "nothing is claimed" in page


@pytest.mark.slow
def test_what_smaller_weights_cost_is_measured_on_the_built_in_model(tmp_path):
    done = run("accuracy", "--texts", 2, "--tokens", 32, "--json", tmp_path)
    (file,) = tmp_path.glob("*-accuracy.json")
    rows = json.loads(file.read_text())["rows"]
    assert rows["float32"]["agreed"] == 1
    assert rows["float32"]["divergence"] == 0
    for row in rows.values():
        assert row["surprise"] == pytest.approx(rows["float32"]["surprise"], rel=0.1)
    assert done.stdout.strip() in page_of(tmp_path)


@pytest.mark.slow
def test_every_operation_is_compared_with_its_reference(tmp_path):
    run("kernels", "--small", "--threads", 1, "--json", tmp_path)
    (file,) = tmp_path.glob("*-kernels-cpu.json")
    rows = json.loads(file.read_text())["rows"]
    assert not [name for name, row in rows.items() if "failed" in row]
    assert all(row["error"] < 1e-2 and row["seconds"] > 0 for row in rows.values())


@pytest.mark.slow
def test_ways_of_launching_steps_are_compared(tmp_path):
    sizes = ("--model", "tiny", "--requests", 2, "--steps", 20, "--rounds", 1, "--threads", 1)
    run("steps", *sizes, "--json", tmp_path / "steps.json")
    rows = json.loads((tmp_path / "steps.json").read_text())["rows"]
    assert [row["way"] for row in rows] == ["plain", "overlapped"]
    assert all(0 < row["host_s"] < row["step_s"] for row in rows)


@pytest.mark.slow
def test_the_service_is_compared_with_the_bare_engine(tmp_path):
    done = run(
        "service", "--model", "tiny", "--requests", 8, "--threads", 1, "--rounds", 1, "--json", tmp_path
    )
    (file,) = tmp_path.glob("*-service-tiny.json")
    assert json.loads(file.read_text())["redis"]["scripts"] > 0
    assert "of the bare engine" in done.stdout


@pytest.mark.slow
def test_what_an_engine_process_can_publish_is_measured_and_compared_with_another_checkout(tmp_path):
    done = run(
        "ceiling",
        *("--batches", 2, 4, "--seconds", 0.3, "--rounds", 1, "--against", ROOT, "--name", "the same"),
        *("--json", tmp_path),
    )
    (file,) = tmp_path.glob("*-ceiling.json")
    for by_name in json.loads(file.read_text())["batches"].values():
        assert by_name.keys() == {"the same", "headrace"}
        assert all(each["tokens"] > 0 for rounds in by_name.values() for each in rounds)
    assert "| the same, batch of 4 |" in done.stdout
    assert done.stdout.strip() in page_of(tmp_path)


@pytest.mark.slow
def test_two_thousand_streams_through_one_gateway_are_whole_and_cost_little(tmp_path):
    sizes = ("--streams", 2000, "--seconds", 4, "--tokens-per-s", 1000)
    done = run("gateway", *sizes, "--json", tmp_path, PEERS_DIR=str(tmp_path))
    (file,) = tmp_path.glob("*-gateway.json")
    facts = json.loads(file.read_text())
    ((measured,),) = (by_name["headrace"] for by_name in facts["streams"].values())
    assert measured["tokens"] >= 2 * 2000, "each was compared with what the engine made"
    assert 0 < measured["idle_bytes"] <= 60_000
    assert measured["answers_per_s"] > 0
    assert facts["vllm"] == {"lost": "not installed: make peers"}
    assert "| headrace, 2,000 streams |" in done.stdout
    assert done.stdout.strip() in page_of(tmp_path)


def test_a_benchmark_that_needs_more_open_files_than_it_may_have_says_so():
    few = f"import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (300, 300)); {GATEWAY}"
    done = subprocess.run([sys.executable, "-c", few], cwd=ROOT, capture_output=True, text=True, timeout=150)
    assert done.returncode == 1
    assert "4,500 files must be open at once, and the hard limit is 300" in done.stderr


GATEWAY = "from benchmarks.gateway.processes import raise_open_files; raise_open_files(4500)"


@pytest.mark.slow
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


@pytest.mark.slow
def test_the_way_through_the_queue_is_measured_beside_celerys(tmp_path):
    done = run(
        "queue", *("--first-tokens", 3, "--enqueued", 20, "--threads", 1, "--rounds", 1, "--json", tmp_path)
    )
    (file,) = tmp_path.glob("*-queue.json")
    facts = json.loads(file.read_text())
    assert {len(seconds) for seconds in facts["first_token_s"].values()} == {3}
    assert "of Celery's" in done.stdout
    assert done.stdout.strip() in page_of(tmp_path)


def commands_of_each_script(redis, count: int) -> dict[str, float]:
    crowd = Crowd(redis, count)
    return measure(redis, crowd.calls(), commands(redis))


def test_no_script_gives_more_commands_with_more_of_everything(redis):
    few, more = (commands_of_each_script(redis, count) for count in (10, 150))
    redis.flushall()
    assert few.keys() == more.keys()
    for name, count in more.items():
        assert count <= (6_000 if name in SEVERAL else few[name] + 12), name


@pytest.mark.slow
def test_every_script_is_measured_with_little_and_much_of_what_can_grow(tmp_path):
    sizes = ("--counts", 4, 30, "--tokens", 1, 20, "--bytes", 10, 1000)
    done = run("scripts", *sizes, "--json", tmp_path)
    (file,) = tmp_path.glob("*-scripts.json")
    facts = json.loads(file.read_text())
    for what in ("number of everything", "tokens in the log", "bytes carried"):
        assert all(cost > 0 for costs in facts[what].values() for cost in costs.values())
    every = {path.stem for path in (ROOT / "schemas" / "scripts").glob("*.lua")}
    assert every <= facts["number of everything"]["30"].keys()
    assert "times" in done.stdout
    assert done.stdout.strip() in page_of(tmp_path)


@pytest.mark.slow
def test_a_few_large_jobs_leave_a_fleets_pages_in_use_and_start_in_bounded_time(tmp_path):
    sizes = ("--workers", 4, "--pages", 160, "--ticks", 400, "--large", 0.25)
    done = run("fleet", *sizes, "--json", tmp_path / "fleet.json")
    facts = json.loads((tmp_path / "fleet.json").read_text())
    assert facts["with"] > 0.95 * facts["without"] > 0.9
    assert len(facts["late_ticks"]) > 0
    assert max(facts["late_ticks"]) < 2 * 112, "twice the longest small job"
    assert "ticks late" in done.stdout


@pytest.mark.slow
def test_the_service_is_measured_beside_hanging_webhooks(tmp_path):
    sizes = ("--hanging", 3, "--requests", 4, "--threads", 1, "--rounds", 1)
    done = run("webhooks", *sizes, "--json", tmp_path)
    (file,) = tmp_path.glob("*-webhooks.json")
    assert {len(seconds) for seconds in json.loads(file.read_text())["seconds"].values()} == {1}
    assert "3 webhooks hanging" in done.stdout
    assert done.stdout.strip() in page_of(tmp_path)


ENGINE = {
    "benchmark": "engine",
    "model": {"name": "none", "layers": 2, "hidden": 100, "heads": 1, "kv_heads": 1, "head_dim": 100}
    | {"vocab": 50, "weights": 100_000, "kv_elements": 400},
    "options": {"requests": 4, "step_tokens": 80, "quantization": None, "device": "cpu"},
    "cases": {
        "workload": {"requests": 4, "prompt_tokens": 400, "output_tokens": 300},
        "first": {"requests": 1, "prompt_tokens": 128, "output_tokens": 1},
        "prefill": {"requests": 4, "prompt_tokens": 160, "output_tokens": 4},
        "decode_1": {"requests": 4, "prompt_tokens": 256, "output_tokens": 4},
        "decode_65": {"requests": 4, "prompt_tokens": 256, "output_tokens": 260},
    },
    "seconds": {"headrace": {"prefill": [0.01], "decode_1": [0.1], "decode_65": [0.1 + 64 * 0.001]}},
    "versions": {"headrace": {}},
    "lost": {},
    "rounds": 1,
    "ceilings": {
        "copy_bytes_per_s": 1e9,
        "matmul_flops": 1e10,
        "linears_s": {"layers": {"4": 0.001, "80": 0.01}, "head": {"4": 0.0005, "80": 0.005}},
    },
}


def test_the_parts_of_the_ceilings_reached_count_what_no_engine_can_do_without():
    # 160 prompt tokens by 95,000 weights, 4 rows by the head; twice all weights, 160 tokens of 800 bytes.
    prefill = ["prefill, steps of 80 tokens", "0.00304", "30 %", "0.0528", "5 %"]
    # 4 rows by all weights; these once, and keys and values of 256 + 4 * 32 tokens.
    decode = ["decode, steps of 4", "0.000800", "8 %", "0.507", "51 %"]
    lines = tables.reached_table(ENGINE).splitlines()
    assert [line.strip("| ").split(" | ") for line in lines[2:]] == [prefill, decode]
    assert tables.linears_alone(ENGINE) == pytest.approx(300 / (400 * 0.01 / 80 + 300 * 0.0015 / 4))


def test_bytes_of_quantised_weights_are_counted_as_such():
    quantised = ENGINE | {"options": ENGINE["options"] | {"quantization": "int8"}}
    assert "| 0.407 | 41 % |" in tables.reached_table(quantised)


def test_a_result_whose_ceilings_were_measured_otherwise_is_shown_without_them():
    old = ENGINE | {"ceilings": {"copy_bytes_per_s": 1e9, "linears_s": {"1": 0.1}}}
    assert "of a copy" not in tables.engine_table(old)


def test_what_the_parts_of_a_run_on_a_gpu_left_is_put_together_and_shown(tmp_path):
    parts, results = tmp_path / "parts", tmp_path / "results"
    parts.mkdir()
    results.mkdir()
    row = {"way": "plain", "step_s": 0.01, "host_s": 0.001, "ready_s": 3.0}
    about = {"machine": machine(), "device": "cuda", "requests": 256, "rounds": 1, "model": {"name": "none"}}
    left = {
        "tests": (123, "..s\n2 passed, 1 skipped in 0.1s\n.F\n1 failed, 3 passed in 2.05s (0:00:02)\n", None),
        "steps": (124, "", {"benchmark": "steps", "rows": [row]} | about),
        "engine-Qwen3-0.6B": (0, "done", ENGINE | {"machine": machine()}),
        "kernels": (1, "Traceback\nRuntimeError: no", None),
    }
    for name, (status, told, measured) in left.items():
        (parts / f"{name}.status").write_text(json.dumps({"status": status, "seconds": 7}))
        (parts / f"{name}.log").write_text(told)
        if measured:
            (parts / f"{name}.json").write_text(json.dumps(measured))
    run("gather", parts, results)
    (file,) = results.glob("*-gpu.json")
    found = json.loads(file.read_text())["parts"]
    assert found["tests"]["tests"] == {"passed": 5, "skipped": 1, "failed": 1}
    assert found["kernels"]["last_line"] == "RuntimeError: no"
    page = page_of(results)
    for shown in (
        "| tests | ended with status 123 | 7 s |",
        "| steps | stopped: its time was over | 7 s |",
        "The tests: 5 passed, 1 skipped, 1 failed.",
        "| plain | 10.0 | 1.00 | 1.00 times | 3.00 |",
        "| decode, steps of 4 |",
    ):
        assert shown in page


def gpu_sh(where: Path, python: str) -> dict:
    """Runs gpu.sh on the CPU; its parts."""
    script = [ROOT / "benchmarks" / "gpu.sh", "--dry-run", where / "gpu.json"]
    environment = os.environ | {"PYTHON": python, "TMPDIR": str(where)}
    done = subprocess.run(script, env=environment, capture_output=True, text=True, timeout=540)
    assert done.returncode == 0, done.stderr
    assert [path.name for path in where.glob("tmp.*")] == []
    return json.loads((where / "gpu.json").read_text())["parts"]


PARTS = {"tests", "kernels", "steps", "engine-tiny"}


def test_the_gpus_script_writes_its_file_even_when_every_part_fails(tmp_path):
    python = tmp_path / "python"
    python.write_text(
        "#!/bin/sh\n"
        f'case "$2" in benchmarks.gather) exec {sys.executable} "$@";; *) echo no $2; exit 3;; esac\n'
    )
    python.chmod(0o755)
    parts = gpu_sh(tmp_path, str(python))
    assert {name: part["status"] for name, part in parts.items()} == dict.fromkeys(PARTS, 3) | {"tests": 123}
    assert parts["steps"]["last_line"] == "no benchmarks.steps"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_gpus_script_runs_on_the_cpu(tmp_path):
    parts = gpu_sh(tmp_path, sys.executable)
    assert {name: part["status"] for name, part in parts.items()} == dict.fromkeys(PARTS, 0)
    assert parts["tests"]["tests"]["passed"] > 0
    assert all(parts[name]["measured"] for name in PARTS - {"tests"})


def test_the_page_is_what_the_results_give():
    run("report", "--check")


def test_each_processor_keeps_its_results_on_the_page(tmp_path):
    measured = next(Path(ROOT, "benchmarks", "results").glob("*-engine-M.json"))
    for day, cpu in (("2020-01-01", "Old"), ("2020-01-02", "Old"), ("2020-01-03", "New")):
        facts = json.loads(measured.read_text())
        facts["machine"] |= {"cpu": cpu, "date": day}
        (tmp_path / f"{day}-engine-M.json").write_text(json.dumps(facts))
    page = page_of(tmp_path)
    titles = [line for line in page.splitlines() if line.startswith("### ")]
    assert [title.rpartition("; ")[2] for title in titles] == ["Old", "New"]
    assert "2020-01-01" not in page
