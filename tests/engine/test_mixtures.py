"""Mixtures of experts: the layouts of their checkpoints. That they are exact, test_exactness shows."""

import json
import re
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from headrace.engine import Engine, EngineConfig, ModelError, Request
from headrace.engine.models.layers import DenseLayer, SparseLayer

from .conftest import _model, expected, greedy, prompt, run
from .int4_checkpoint import GPTQ, GROUP, Quantised, round_to_four_bits

EXPERTS = {
    "mixtral": ("block_sparse_moe", "w1", "w3", "w2"),
    "qwen3_moe": ("mlp", "gate_proj", "up_proj", "down_proj"),
}
"""Where a family's experts are, and what their gate, up and down projections are called."""


def tokens(folder, **options: object) -> list[int]:
    engine = Engine(EngineConfig(model=str(folder), **options))
    return run(engine, Request("r", list(prompt(31)), greedy()))["r"]


@pytest.fixture
def checkpoint(model_folder, tmp_path):
    """A family's checkpoint with its tensors and configuration changed."""

    def made(family, tensors=lambda tensors: tensors, drop=(), **config: object):
        folder = tmp_path / family
        shutil.copytree(model_folder(family), folder)
        path = folder / "config.json"
        kept = {name: value for name, value in json.loads(path.read_text()).items() if name not in drop}
        path.write_text(json.dumps(kept | config))
        path = folder / "model.safetensors"
        save_file(tensors(load_file(path)), path, metadata={"format": "pt"})
        return folder

    return made


@pytest.mark.parametrize("family", EXPERTS)
def test_experts_in_one_tensor_are_read_as_experts_apart(checkpoint, family):
    block, gate, up, down = EXPERTS[family]

    def joined(tensors):
        """As transformers 5 saves them with `save_original_format=False`."""
        found: dict[str, dict[int, dict[str, torch.Tensor]]] = {}
        others = {}
        for name, tensor in tensors.items():
            if match := re.fullmatch(rf"(.*)\.{block}\.experts\.(\d+)\.(\w+)\.weight", name):
                layer, expert, kind = match.groups()
                found.setdefault(layer, {}).setdefault(int(expert), {})[kind] = tensor
            else:
                others[name.replace(f".{block}.gate.", ".mlp.gate.")] = tensor
        for layer, experts in found.items():
            parts = [part for _, part in sorted(experts.items())]
            others[f"{layer}.mlp.experts.gate_up_proj"] = torch.stack(
                [torch.cat((part[gate], part[up])) for part in parts]
            )
            others[f"{layer}.mlp.experts.down_proj"] = torch.stack([part[down] for part in parts])
        return others

    assert tokens(checkpoint(family, joined)) == expected(family, prompt(31))


def test_the_number_of_experts_has_either_versions_name(checkpoint):
    folder = checkpoint("qwen3_moe", drop=("num_local_experts", "num_experts"), num_experts=6)
    assert tokens(folder) == expected("qwen3_moe", prompt(31))


@pytest.mark.parametrize(
    "options", [{"norm_topk_prob": True}, {"decoder_sparse_step": 2, "mlp_only_layers": []}]
)
def test_every_switch_of_a_mixture_is_heeded(tmp_path, options):
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

    config = Qwen3MoeConfig(**_model("qwen3_moe").config.to_dict() | options)
    torch.manual_seed(3)
    model = Qwen3MoeForCausalLM(config).eval()
    model.save_pretrained(tmp_path)
    ids = torch.tensor([prompt(31)])
    with torch.inference_mode():
        theirs = model(ids).logits[0, -1].topk(5)
    engine = Engine(EngineConfig(model=str(tmp_path)))
    sparse = [isinstance(layer, SparseLayer) for layer in engine._executor._decoder.layers]
    assert sparse == ([False, True, False] if "decoder_sparse_step" in options else [True, False, True])
    assert tokens(tmp_path)[0] == theirs.indices[0]


def test_attention_of_four_bits_goes_with_experts_of_floats(tmp_path):
    quantised = Quantised("qwen3_moe", GPTQ, chosen=lambda name: "self_attn" in name or ".1.mlp." in name)
    folder = quantised.save(tmp_path)
    assert tokens(folder, dtype="float32") == quantised.expected(prompt(31))
    layers = Engine(EngineConfig(model=str(folder)))._executor._decoder.layers
    assert isinstance(layers[1], DenseLayer)


def test_experts_of_four_bits_are_dequantised(tmp_path):
    """In transformers 5 experts are no linear maps, so that none is rounded above; these are."""
    folder = Quantised("qwen3_moe", GPTQ, chosen=lambda _: False).save(tmp_path)
    path = folder / "model.safetensors"
    tensors, group = load_file(path), torch.arange(64) // GROUP
    prefix = "model.layers.0.mlp.experts.0.gate_proj"
    weight, stored = round_to_four_bits(tensors.pop(f"{prefix}.weight"), group, GPTQ)
    save_file(tensors | {f"{prefix}.{kind}": tensor for kind, tensor in stored.items()}, path)
    layer = Engine(EngineConfig(model=str(folder)))._executor._decoder.layers[0]
    x = torch.randn(5, 64)
    assert torch.equal(layer.experts._gate_up[0](x)[:, :32], torch.nn.functional.linear(x, weight))


@pytest.mark.parametrize("family", EXPERTS)
def test_all_parameters_are_counted(make_engine, family):
    norms = sum(p.numel() for name, p in _model(family).named_parameters() if "norm" in name)
    counted = make_engine(family).model_info.num_parameters
    assert counted == _model(family).num_parameters() - norms


def test_int8_weights_of_a_mixture_are_refused(model_folder):
    with pytest.raises(ModelError, match="int8 weights need a model without experts"):
        tokens(model_folder("mixtral"), dtype="bfloat16", quantization="int8")


def test_more_experts_a_token_than_there_are_is_refused(checkpoint):
    with pytest.raises(ModelError, match="num_experts_per_tok is 9, but there are 4 experts"):
        tokens(checkpoint("mixtral", num_experts_per_tok=9))


def test_a_checkpoint_without_an_expert_is_refused_by_its_name(checkpoint):
    def less(tensors):
        return {name: tensor for name, tensor in tensors.items() if "experts.3.w2" not in name}

    with pytest.raises(ModelError, match=r"experts\.3\.w2\.weight"):
        tokens(checkpoint("mixtral", less))
