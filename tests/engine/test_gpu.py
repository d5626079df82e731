"""What only a GPU shows: captured graphs, streams, memory. In float32, so that tokens can be compared."""

import pytest
import torch

from headrace.engine import Engine, EngineConfig, Request

from .conftest import FAMILIES, expected, greedy, prompt, run
from .int4_checkpoint import AWQ, GPTQ, Quantised
from .test_constraint import EOS, mixed
from .test_overlap import crowd, everything

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA GPU")


@pytest.fixture
def gpu_engine(make_engine):
    """An engine on the GPU, ready for requests."""
    return lambda family="llama", **options: make_engine(family, device="cuda", dtype="float32", **options)


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_tokens_equal_transformers(gpu_engine, family):
    requests = [
        Request(f"r{salt}.{length}", list(prompt(length, salt)), greedy())
        for salt in range(4)
        for length in (1, 15, 16, 17, 31, 200, 1000)
    ]
    outputs = run(gpu_engine(family, max_step_tokens=300), *requests)
    for request in requests:
        assert outputs[request.id] == expected(family, tuple(request.prompt_ids)), request.id


@pytest.mark.parametrize("options", [{"cuda_graphs": False}, {"overlap": False}, {"num_pages": 30}])
def test_graphs_overlap_and_preemption_change_no_token(gpu_engine, options):
    assert everything(gpu_engine(), crowd(1)) == everything(gpu_engine(**options), crowd(1))


def test_a_gpu_gives_the_cpus_tokens(gpu_engine, make_engine):
    assert everything(gpu_engine(), crowd(3)) == everything(make_engine(), crowd(3))


def test_constraints_allow_the_same_tokens_on_a_gpu(gpu_engine, make_engine):
    outputs = []
    for engine in (gpu_engine(), make_engine()):
        engine.end_also_at([EOS])
        outputs.append(run(engine, *mixed(3)))
    assert outputs[0] == outputs[1]


def test_nothing_waits_for_the_device_while_a_step_is_launched(gpu_engine, monkeypatch):
    engine = gpu_engine()
    launch = engine._launcher.launch

    def watched(plan):
        torch.cuda.set_sync_debug_mode("error")
        try:
            return launch(plan)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(engine._launcher, "launch", watched)
    everything(engine, crowd(1))


@pytest.mark.parametrize("family", ["llama", "qwen3_moe"])
def test_no_kernel_is_compiled_once_the_engine_is_ready(gpu_engine, monkeypatch, family):
    knobs = pytest.importorskip("triton.knobs")
    engine = gpu_engine(family, max_context_tokens=1024)
    compiled: list[str] = []
    monkeypatch.setattr(
        knobs.runtime, "jit_post_compile_hook", lambda *_, **what: compiled.append(what.get("repr", ""))
    )
    everything(engine, crowd(1))
    everything(engine, crowd(2, count=3))
    assert compiled == []


def test_pages_leave_the_reserve_free_after_warm_up(gpu_engine):
    torch.cuda.empty_cache()
    reserve = torch.cuda.mem_get_info()[1] // 2
    engine = gpu_engine(gpu_reserve_bytes=reserve, max_batch_size=8)
    assert engine.stats().pages_total > 0
    torch.cuda.synchronize()
    assert torch.cuda.mem_get_info()[0] > 0.95 * reserve
    assert run(engine, Request("r", list(prompt(31)), greedy()))["r"] == expected("llama", prompt(31))


@pytest.mark.parametrize("settings", [AWQ, GPTQ, GPTQ | {"desc_act": True}])
def test_four_bit_weights_give_transformers_tokens(tmp_path, settings):
    quantised = Quantised("llama", settings)
    engine = Engine(EngineConfig(model=str(quantised.save(tmp_path)), device="cuda", dtype="float32"))
    requests = [Request(f"r{length}", list(prompt(length)), greedy()) for length in (1, 31, 200)]
    outputs = run(engine, *requests)
    for request in requests:
        assert outputs[request.id] == quantised.expected(tuple(request.prompt_ids)), request.id


def test_8_bit_keys_and_values_give_the_cpus_tokens(gpu_engine, make_engine):
    requests = [Request(f"r{length}", list(prompt(length)), greedy()) for length in (1, 17, 200)]
    assert run(gpu_engine(kv_dtype="fp8"), *requests) == run(make_engine(kv_dtype="fp8"), *requests)
