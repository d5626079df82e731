"""In deterministic mode, a request has the same log-probabilities and tokens, bit for bit, in every batch."""

from dataclasses import replace

import pytest
import torch

from headrace.engine import ModelError, Request, SamplingParams
from headrace.engine.models import determinism, load_config, read_configs
from headrace.kernels.native import shared_library

from .conftest import prompt

pytestmark = pytest.mark.skipif(shared_library() is None, reason="there is no compiler")

NEEDLE = SamplingParams(max_tokens=12, temperature=1.0, top_p=0.9, seed=5, logprobs=5, ignore_eos=True)
NEIGHBOURS = (1, 2, 8, 44, 64, 256)
MODELS = (
    *(("llama", "float32"), ("llama", "bfloat16"), ("qwen2", "float32"), ("mistral", "float32")),
    *(("granite", "bfloat16"), ("mixtral", "float32"), ("qwen3_moe", "bfloat16"), ("llama", "float16")),
)


@pytest.fixture
def make(make_engine):
    """A deterministic engine for (family, dtype)."""

    def made(model=MODELS[0], **options):
        options = {"max_batch_size": 257, "prefix_cache": False, "deterministic": True} | options
        return make_engine(model[0], dtype=model[1], **options)

    return made


def needle(**changes):
    return replace(Request("needle", list(prompt(50)), NEEDLE), **changes)


def others(count):
    """Requests of many lengths, some of which have a single token to compute from the first step on."""
    params = replace(NEEDLE, max_tokens=6, logprobs=None, top_p=1.0)
    return [Request(f"{salt}", list(prompt(1 + 7 * salt % 40, salt)), params) for salt in range(count)]


def answer(engine, request, *beside):
    """The request's tokens and log-probabilities, with half of the others before it in the batch."""
    half = len(beside) // 2
    for each in (*beside[:half], request, *beside[half:]):
        engine.submit(each)
    tokens, logprobs = [], []
    while engine.has_work:
        for progress in engine.step():
            if progress.id == request.id:
                tokens += progress.token_ids
                logprobs += progress.logprobs
    assert len(logprobs) == len(tokens)
    return tokens, logprobs


@pytest.mark.parametrize("model", MODELS)
def test_neighbours_and_chunks_change_no_bit(make, model):
    alone = answer(make(model), needle())
    assert len(alone[0]) == 12
    for step_tokens in (7, 64, 512):
        engine = make(model, max_step_tokens=step_tokens)
        # Small steps take long for many neighbours, who all have to be computed before the needle ends.
        for count in NEIGHBOURS if step_tokens == 512 else NEIGHBOURS[:3]:
            assert answer(engine, needle(), *others(count)) == alone, (step_tokens, count)


@pytest.mark.parametrize("model", MODELS)
def test_preemption_resumption_and_a_prefix_hit_change_no_bit(make, model):
    tokens, logprobs = alone = answer(make(model), needle())
    crowded = make(model, num_pages=18)
    assert answer(crowded, needle(), *others(20)) == alone
    assert crowded.stats().preemptions > 0
    engine = make(model, prefix_cache=True)
    for known in (1, 6, 11):
        resumed = needle(output_ids=tokens[:known])
        assert answer(engine, resumed) == (tokens[known:], logprobs[known:])
    assert answer(engine, needle()) == alone
    assert engine.stats().prefix_hit_tokens > 0


@pytest.mark.parametrize("model", MODELS[:2])
def test_the_number_of_threads_changes_no_bit(make, model):
    alone = answer(make(model), needle())
    torch.set_num_threads(3)
    assert answer(make(model), needle(), *others(8)) == alone


def test_int8_weights_are_deterministic_too(make):
    model = "llama", "bfloat16"
    alone = answer(make(model, quantization="int8"), needle())
    assert answer(make(model, quantization="int8"), needle(), *others(44)) == alone


def test_what_can_not_be_deterministic_is_refused_by_name(make, model_folder, monkeypatch):
    with pytest.raises(ModelError, match=r"kv_dtype fp8 on a CPU.*leave deterministic unset"):
        make(kv_dtype="fp8")
    cpu, spec = torch.device("cpu"), load_config("llama", *read_configs(model_folder("llama"))).spec
    unknown = ({"activation": "gelu_tanh"}, "gelu_tanh"), ({"logit_soft_cap": 30.0}, "soft caps")
    for changes, reason in unknown:
        other = replace(spec, **changes)
        assert reason in determinism.why_not_deterministic(other, torch.float32, cpu, False)
    assert "float64" in determinism.why_not_deterministic(spec, torch.float64, cpu, False)
    assert determinism.why_not_deterministic(spec, torch.float32, cpu, False) is None
    monkeypatch.setattr(determinism, "can_be_invariant", lambda *_: False)
    with pytest.raises(ModelError, match=r"needs a C\+\+ compiler"):
        make()
