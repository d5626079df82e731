"""What a checkpoint's configuration files mean, compared with what transformers makes of them."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import AutoConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from headrace.engine import EngineConfig, ModelError
from headrace.engine.loading import load_executor
from headrace.engine.models import load_config
from headrace.engine.models.families import FAMILIES

NAMES = {
    "llama": "Llama",
    "mistral": "Mistral",
    "qwen2": "Qwen2",
    "qwen3": "Qwen3",
    "mixtral": "Mixtral",
    "qwen3_moe": "Qwen3Moe",
    "granite": "Granite",
}

ONE_MASK = {"llama", "granite"}

SMALL: dict[str, Any] = {
    "vocab_size": 300,
    "hidden_size": 96,
    "intermediate_size": 160,
    "num_hidden_layers": 5,
    "num_attention_heads": 4,
    "max_position_embeddings": 4096,
}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
FILES: dict[str, dict[str, Any]] = {
    "says nothing": {},
    "all of it, as transformers 4 writes it": SMALL
    | {
        "num_key_value_heads": 2,
        "head_dim": 32,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": True,
        "attention_bias": False,
        "rope_theta": 500000.0,
        "rope_scaling": None,
        "eos_token_id": [3, 4],
        "torch_dtype": "float16",
    },
    "all of it, as transformers 5 writes it": SMALL
    | {
        "num_key_value_heads": 4,
        "head_dim": 64,
        "eos_token_id": 7,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0},
        "dtype": "bfloat16",
    },
    "windows in the upper layers": SMALL
    | {
        "num_key_value_heads": 2,
        "use_sliding_window": True,
        "sliding_window": 128,
        "max_window_layers": 3,
    },
    "windows switched off": SMALL
    | {
        "num_key_value_heads": 2,
        "use_sliding_window": False,
        "sliding_window": 128,
        "max_window_layers": 3,
    },
    "no window": SMALL | {"num_key_value_heads": 2, "sliding_window": None},
    "layers named": SMALL
    | {
        "num_key_value_heads": 2,
        "use_sliding_window": True,
        "sliding_window": 128,
        "layer_types": ["full_attention", "sliding_attention"] * 2 + ["full_attention"],
    },
    "stretched evenly": SMALL
    | {"num_key_value_heads": 2, "rope_theta": 20000.0, "rope_scaling": {"type": "linear", "factor": 4.0}},
    "stretched where it grows beyond its context": SMALL
    | {"num_key_value_heads": 2, "rope_scaling": {"type": "dynamic", "factor": 4.0}},
    "stretched like Llama 3.1": SMALL
    | {
        "num_key_value_heads": 2,
        "rope_theta": 500000.0,
        "rope_scaling": LLAMA3 | {"original_max_position_embeddings": 1024},
    },
    "stretched like Llama 3.1, in the new layout": SMALL
    | {
        "num_key_value_heads": 2,
        "rope_parameters": LLAMA3 | {"original_max_position_embeddings": 512, "rope_theta": 5e5},
    },
    "stretched by YaRN": SMALL
    | {
        "num_key_value_heads": 2,
        "rope_theta": 1000000.0,
        "rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024},
    },
    "stretched by YaRN with every option": SMALL
    | {
        "num_key_value_heads": 2,
        "rope_parameters": {
            "rope_type": "yarn",
            "rope_theta": 50000.0,
            "factor": 8.0,
            "original_max_position_embeddings": 512,
            "beta_fast": 16.0,
            "beta_slow": 2.0,
            "mscale": 0.7,
            "mscale_all_dim": 1.2,
            "truncate": False,
        },
    },
    "stretched by YaRN with its amplitude": SMALL
    | {
        "num_key_value_heads": 2,
        "rope_parameters": {
            "rope_type": "yarn",
            "rope_theta": 50000.0,
            "factor": 4.0,
            "original_max_position_embeddings": 1024,
            "attention_factor": 1.5,
        },
    },
}


def file(model_type: str, content: dict[str, Any]) -> dict[str, Any]:
    return {"model_type": model_type, "architectures": [f"{NAMES[model_type]}ForCausalLM"]} | content


def windows(theirs: Any) -> tuple[int, ...]:
    """By layer, as transformers' models choose their masks; some have only the one."""
    if theirs.model_type in ONE_MASK:
        return (0,) * theirs.num_hidden_layers
    layers = getattr(theirs, "layer_types", None) or ["sliding_attention"] * theirs.num_hidden_layers
    window = getattr(theirs, "sliding_window", None) or 0
    return tuple(window if kind == "sliding_attention" else 0 for kind in layers)


def test_every_family_is_compared():
    assert {name: f"{NAMES[name]}ForCausalLM" for name in FAMILIES} == {
        name: family.architecture for name, family in FAMILIES.items()
    }


@pytest.mark.skipif(
    transformers.__version__ < "5", reason="leaves more to its models than to its configurations"
)
@pytest.mark.parametrize("content", FILES.values(), ids=FILES)
@pytest.mark.parametrize("model_type", FAMILIES)
def test_a_configuration_means_what_transformers_takes_it_for(model_type, content, tmp_path):
    config = file(model_type, content)
    (tmp_path / "config.json").write_text(json.dumps(config))
    theirs = AutoConfig.from_pretrained(tmp_path)
    if model_type in ONE_MASK and content.get("sliding_window"):  # theirs then has windows while it decodes
        with pytest.raises(ModelError, match=f"sliding_window=128 is not supported for {NAMES[model_type]}"):
            load_config("m", config, {})
        return
    ours = load_config("m", config, {})
    ends = theirs.eos_token_id
    expected = {
        "family": model_type,
        "vocab_size": theirs.vocab_size,
        "hidden_size": theirs.hidden_size,
        "intermediate_size": theirs.intermediate_size,
        "num_layers": theirs.num_hidden_layers,
        "num_heads": theirs.num_attention_heads,
        "num_kv_heads": theirs.num_key_value_heads,
        "head_dim": getattr(theirs, "head_dim", None) or theirs.hidden_size // theirs.num_attention_heads,
        "norm_eps": theirs.rms_norm_eps,
        "context_tokens": theirs.max_position_embeddings,
        "tie_embeddings": theirs.tie_word_embeddings,
        "qkv_bias": model_type == "qwen2" or getattr(theirs, "attention_bias", False),
        "output_bias": getattr(theirs, "attention_bias", False) and model_type != "qwen2",
        "mlp_bias": getattr(theirs, "mlp_bias", False),
        "qk_norm": model_type in {"qwen3", "qwen3_moe"},
        "sliding_windows": windows(theirs),
        "eos_token_ids": tuple(ends) if isinstance(ends, list) else (() if ends is None else (ends,)),
        "dtype": None if theirs.dtype is None else str(theirs.dtype).removeprefix("torch."),
    }
    spec = ours.spec
    assert {name: getattr(spec if hasattr(spec, name) else ours, name) for name in expected} == expected
    rope = theirs.rope_parameters
    kind = "default" if rope["rope_type"] == "dynamic" else rope["rope_type"]
    assert (spec.rope.kind, spec.rope.theta) == (kind, rope["rope_theta"])
    if rope["rope_type"] != "default":
        theirs.head_dim = ours.head_dim  # their YaRN can't do with a null one, as in Mixtral's
        inverse, amplitude = ROPE_INIT_FUNCTIONS[rope["rope_type"]](theirs, torch.device("cpu"))
        assert torch.equal(spec.rope.inverse_frequencies(ours.head_dim), inverse)
        assert spec.rope.amplitude == amplitude


@pytest.mark.parametrize("kinds", [["full_attention"], ["chunked_attention"] * 5])
def test_layers_that_attend_otherwise_are_refused(kinds):
    with pytest.raises(
        ModelError, match="must be full_attention or sliding_attention for each of the 5 layers"
    ):
        load_config("m", file("mistral", SMALL | {"num_key_value_heads": 2, "layer_types": kinds}), {})


def test_the_ends_of_both_files_count():
    config = file("llama", SMALL | {"eos_token_id": 5})
    assert load_config("m", config, {"eos_token_id": [9, 5]}).eos_token_ids == (5, 9)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"model_type": "gemma9"}, "model_type='gemma9'; supported are granite, llama, mistral"),
        ({"architectures": None, "model_type": "bert"}, "model_type='bert' is an encoder, which is not supp"),
        ({"architectures": ["XLMRobertaModel"]}, "XLMRobertaModel is an encoder, which is not supported"),
        ({"hidden_size": "96"}, "hidden_size='96'; it must be a positive integer"),
        ({"num_hidden_layers": 0}, "num_hidden_layers=0; it must be a positive integer"),
        ({"num_attention_heads": None}, "num_attention_heads=None; it must be a positive integer"),
        ({"rms_norm_eps": True}, "rms_norm_eps=True; it must be a number"),
        ({"tie_word_embeddings": "yes"}, "tie_word_embeddings='yes'; it must be true or false"),
        ({"hidden_act": "gelu"}, "hidden_act='gelu' is not supported; it must be silu"),
        ({"hidden_size": 98}, "hidden_size=98 can't be shared by 4 heads"),
        ({"head_dim": 33}, "head_dim=33 is odd"),
        ({"dtype": 32}, "dtype=32; it must be the name of a type"),
        ({"architectures": None, "model_type": "gpt9"}, "model_type='gpt9' is not supported; supported are"),
        ({"model_type": "mistral"}, "contradicts itself: LlamaForCausalLM, but model_type='mistral'"),
        ({"num_key_value_heads": 3}, "4 attention heads can't share num_key_value_heads=3 evenly"),
        ({"sliding_window": 16}, "sliding_window=16 is not supported for Llama"),
        ({"is_causal": False}, "is_causal=False is not supported"),
        ({"rope_scaling": {"type": "linear"}}, "rope_type='linear' needs factor beside it"),
        ({"rope_scaling": {"type": "linear", "factor": "2"}}, "factor='2'; it must be a number"),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor=0.5 is not supported"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor=0.5 is not supported"),
        ({"rope_parameters": {"full_attention": {"rope_theta": 1e4}}}, "differ between layers"),
    ],
)
def test_what_can_not_be_heeded_is_refused_with_the_reason(change, reason):
    with pytest.raises(ModelError, match=reason):
        load_config("m", file("llama", SMALL | change), {})


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("config.json", None, "config.json can't be read: .*No such file"),
        ("config.json", "{", "config.json can't be read: Expecting"),
        ("config.json", "[1]", "config.json doesn't contain a JSON object"),
    ],
)
def test_a_file_that_can_not_be_read_is_named(name, content, reason, tmp_path: Path):
    files = {"config.json": json.dumps(file("llama", SMALL))} | {name: content}
    for each, text in files.items():
        if text is not None:
            (tmp_path / each).write_text(text)
    with pytest.raises(ModelError, match=reason):
        load_executor(EngineConfig(model=str(tmp_path)))


def test_without_architectures_the_model_type_counts():
    for nothing in (None, []):
        config = file("qwen3", SMALL | {"num_key_value_heads": 2}) | {"architectures": nothing}
        assert load_config("m", config, {}).family == "qwen3"


def test_code_that_a_checkpoint_brings_is_never_run(tmp_path: Path):
    (tmp_path / "mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    brings = {"auto_map": {"AutoConfig": "mine.Config"}, "model_type": "mine"}
    (tmp_path / "config.json").write_text(json.dumps(file("llama", SMALL) | brings))
    with pytest.raises(ModelError, match="model_type='mine'"):
        load_executor(EngineConfig(model=str(tmp_path)))
    assert not (tmp_path / "ran").exists()
