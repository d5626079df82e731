"""Keys and values kept as 8-bit floats."""

import copy
import sys

import pytest
import torch

from headrace.engine import EngineConfig, ModelError, Request
from headrace.kernels.compiled import can_compile

from .conftest import DENSE, NEW_TOKENS, _model, greedy, prompt, run

MEMORY = 1 << 20


def rounded(x: torch.Tensor) -> torch.Tensor:
    return x.clamp(-448, 448).to(torch.float8_e4m3fn).float()


@pytest.fixture
def rounding_model(monkeypatch):
    """transformers' model of a family, whose keys, once rotated, and values are rounded to 8 bits."""

    def made(family):
        model = copy.deepcopy(_model(family))
        module = sys.modules[type(model).__module__]
        rotate = module.apply_rotary_pos_emb

        def rotate_and_round(*args, **options):
            q, k = rotate(*args, **options)
            return q, rounded(k)

        monkeypatch.setattr(module, "apply_rotary_pos_emb", rotate_and_round)
        for layer in model.model.layers:
            layer.self_attn.v_proj.register_forward_hook(lambda _, __, value: rounded(value))
        return model

    return made


@pytest.mark.parametrize("family", DENSE)
def test_tokens_are_those_of_rounded_keys_and_values(make_engine, rounding_model, family):
    model, engine = rounding_model(family), make_engine(family, kv_dtype="fp8")
    for length in (1, 17, 200):
        ids = torch.tensor([prompt(length)])
        with torch.inference_mode():
            out = model.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW_TOKENS, do_sample=False
            )
        tokens = run(engine, Request(f"r{length}", list(prompt(length)), greedy()))[f"r{length}"]
        assert tokens == out[0, length:].tolist()


def test_the_same_memory_holds_as_many_more_pages_as_they_are_smaller(make_engine):
    wide = make_engine(kv_memory_bytes=MEMORY).stats().pages_total + 1
    narrow = make_engine(kv_memory_bytes=MEMORY, kv_dtype="fp8").stats().pages_total + 1
    assert (wide, narrow) == (MEMORY // (2 * 3 * 2 * 16 * 16 * 4), MEMORY // (2 * 3 * 2 * 16 * 16))


def test_chunks_prefixes_and_preemption_change_no_token(make_engine):
    sizes = [(31, salt) for salt in range(6)] + [(200, 0), (17, 0)]
    requests = [Request(f"r{length}.{salt}", list(prompt(length, salt)), greedy()) for length, salt in sizes]
    whole = run(make_engine(kv_dtype="fp8"), *requests)
    engine = make_engine(kv_dtype="fp8", max_step_tokens=40, num_pages=18)
    assert run(engine, *requests) == whole
    assert engine.stats().preemptions > 0


@pytest.mark.skipif(
    not can_compile(torch.bfloat16, torch.device("cpu")),
    reason="there is no compiler",
)
def test_a_compiled_step_refuses_them_and_says_the_way_out(make_engine):
    with pytest.raises(
        ModelError, match=r"kv_dtype fp8 is for GPUs.*leave kv_dtype unset, or use dtype float32"
    ):
        make_engine(dtype="bfloat16", kv_dtype="fp8")


def test_another_type_is_refused_by_name():
    with pytest.raises(ValueError, match="kv_dtype is 'int4'; it must be 'fp8'"):
        EngineConfig(model="x", kv_dtype="int4")
