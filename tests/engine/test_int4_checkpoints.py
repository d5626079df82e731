"""AWQ and GPTQ checkpoints give the tokens that transformers computes from the same weights as floats."""

import json

import pytest
import torch

from headrace.engine import Engine, EngineConfig, ModelError, Request
from headrace.engine.models.linears import SideBySide
from headrace.kernels import int4_linear

from .conftest import VOCAB, _model, greedy, prompt, run
from .int4_checkpoint import AWQ, GPTQ, GROUP, Quantised
from .test_exactness import needs_products, top_five

LENGTHS = (1, 16, 31, 200)


def load(folder, dtype="float32", **options: object) -> Engine:
    return Engine(EngineConfig(model=str(folder), dtype=dtype, **options))


def assert_equals_transformers(quantised, folder, **options: object) -> Engine:
    engine = load(folder, **options)
    requests = [Request(f"r{length}", list(prompt(length)), greedy()) for length in LENGTHS]
    outputs = run(engine, *requests)
    for request in requests:
        assert outputs[request.id] == quantised.expected(tuple(request.prompt_ids)), request.id
    return engine


def layers(engine: Engine):
    return engine._executor._decoder.layers


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("settings", [AWQ, GPTQ, GPTQ | {"checkpoint_format": "gptq_v2"}])
def test_greedy_tokens_equal_transformers_with_the_same_weights(tmp_path, family, settings):
    quantised = Quantised(family, settings)
    assert_equals_transformers(quantised, quantised.save(tmp_path), max_step_tokens=100)


def test_four_bits_are_kept_where_there_is_a_kernel_for_them(tmp_path, monkeypatch):
    monkeypatch.setattr(int4_linear, "runs_triton", lambda _: True)
    for layer in layers(load(Quantised("qwen3", AWQ).save(tmp_path))):
        for linear in (layer.qkv, layer.output, layer.gate_up, layer.down):
            assert isinstance(linear, int4_linear.Int4Linear)


def shuffled(seed: int, inputs: int) -> torch.Tensor:
    order = torch.randperm(inputs, generator=torch.Generator().manual_seed(seed))
    return (torch.arange(inputs) // GROUP)[order]


def test_gptq_in_the_order_of_activations_is_read_by_its_g_idx(tmp_path):
    quantised = Quantised("llama", GPTQ | {"desc_act": True}, groups=lambda _, inputs: shuffled(0, inputs))
    engine = assert_equals_transformers(quantised, quantised.save(tmp_path))
    assert not isinstance(layers(engine)[0].qkv, SideBySide)


def test_maps_of_one_input_in_orders_of_their_own_stay_apart(tmp_path):
    quantised = Quantised(
        "qwen2", GPTQ | {"desc_act": True}, groups=lambda name, inputs: shuffled(len(name), inputs)
    )
    engine = assert_equals_transformers(quantised, quantised.save(tmp_path))
    assert isinstance(layers(engine)[0].gate_up, SideBySide)


def test_maps_left_as_floats_are_read_as_floats(tmp_path):
    quantised = Quantised(
        "llama",
        GPTQ | {"dynamic": {"-:.*v_proj": {}, "-:.*layers.1.mlp": {}}},
        chosen=lambda name: "lm_head" not in name and "v_proj" not in name and "layers.1.mlp" not in name,
    )
    engine = assert_equals_transformers(quantised, quantised.save(tmp_path))
    assert isinstance(layers(engine)[0].qkv, SideBySide)


def test_a_quantised_head_is_read(tmp_path):
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(**_model("llama").config.to_dict() | {"vocab_size": VOCAB + 4})  # whole words
    torch.manual_seed(0)
    quantised = Quantised(LlamaForCausalLM(config).eval(), GPTQ | {"lm_head": True}, chosen=lambda _: True)
    assert_equals_transformers(quantised, quantised.save(tmp_path))


@pytest.mark.parametrize("settings", [AWQ, GPTQ])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_keeps_the_best_token_near_the_top(tmp_path, settings, dtype):
    quantised = Quantised("llama", settings)
    engine = load(quantised.save(tmp_path), dtype)
    for salt in range(4):
        assert quantised.expected(prompt(31, salt))[0] in top_five(engine, salt, [])


@pytest.fixture
def changed(tmp_path):
    """A checkpoint whose quantization_config is changed after it was written."""

    def made(base: dict[str, object] = GPTQ, **settings: object):
        Quantised("llama", base).save(tmp_path)
        path = tmp_path / "config.json"
        config = json.loads(path.read_text())
        config["quantization_config"] |= settings
        path.write_text(json.dumps(config))
        return tmp_path

    return made


@pytest.mark.parametrize(
    ("base", "settings", "named"),
    [
        (GPTQ, {"bits": 8}, r"quantization_config\.bits is 8"),
        (AWQ, {"bits": 3}, r"quantization_config\.bits is 3"),
        (GPTQ, {"quant_method": "bitsandbytes"}, r"quant_method is 'bitsandbytes'"),
        (GPTQ, {"quant_method": "compressed-tensors"}, r"quant_method is 'compressed-tensors'"),
        (AWQ, {"group_size": 48}, "group_size is 48"),
        (AWQ, {"group_size": "128"}, "group_size is '128'"),
        (AWQ, {"version": "GEMV"}, "version is 'gemv'"),
        (GPTQ, {"checkpoint_format": "marlin"}, "checkpoint_format is 'marlin'"),
        (GPTQ, {"is_marlin_format": True}, "is_marlin_format"),
        (GPTQ, {"pack_dtype": "int16"}, "pack_dtype is 'int16'"),
        (GPTQ, {"dynamic": {"+:.*down.*": {"bits": 8}}}, r"dynamic is '\+:\.\*down"),
    ],
)
def test_what_there_is_no_code_for_is_refused_with_field_value_and_way_out(changed, base, settings, named):
    with pytest.raises(ModelError, match=named + ".*use the float checkpoint, or one quantised to 4 bits"):
        load(changed(base, **settings))


def test_groups_that_do_not_fit_the_tensors_are_refused_by_name(changed):
    with pytest.raises(ModelError, match=r"layers\.0\.self_attn\.q_proj\.qzeros.*in groups of 64"):
        load(changed(group_size=64))


@needs_products
def test_four_bits_are_computed_as_bytes_where_asked(tmp_path):
    quantised = Quantised("llama", GPTQ | {"desc_act": True}, groups=lambda _, inputs: shuffled(0, inputs))
    engine = load(quantised.save(tmp_path), "bfloat16", quantization="int8")
    for salt in range(4):
        assert quantised.expected(prompt(31, salt))[0] in top_five(engine, salt, [])
