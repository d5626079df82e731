"""A checkpoint's files and its config.json belong together, or no engine starts: nothing is ignored."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from headrace.engine import Engine, EngineConfig, ModelError, Request

from .conftest import FAMILIES, NEW_TOKENS, _model, expected, greedy, prompt, run
from .int4_checkpoint import AWQ, GPTQ, Quantised

Tensors = dict[str, torch.Tensor]
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


@pytest.fixture
def checkpoint(model_folder: Callable[[str], Path], tmp_path: Path):
    """A copy of a family's checkpoint with its tensors and configuration changed."""

    def made(
        family: str = "llama", tensors: Callable[[Tensors], Tensors] | None = None, **config: Any
    ) -> Path:
        folder = tmp_path / "model"
        shutil.copytree(model_folder(family), folder)
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | config))
        if tensors is not None:
            path = folder / "model.safetensors"
            save_file(tensors(load_file(path)), path, metadata={"format": "pt"})
        return folder

    return made


def load(folder: Path, **options: object) -> Engine:
    return Engine(EngineConfig(model=str(folder), **options))


def refusal(folder: Path, **options: object) -> str:
    with pytest.raises(ModelError) as refused:
        load(folder, **options)
    message = str(refused.value)
    assert "\n" not in message
    return message


def tokens(folder: Path, **options: object) -> list[int]:
    return run(load(folder, **options), Request("r", list(prompt(31)), greedy()))["r"]


def of_transformers(folder: Path) -> list[int]:
    ids = torch.tensor([prompt(31)])
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.inference_mode():
        out = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW_TOKENS, do_sample=False
        )
    return out[0, 31:].tolist()


# What config.json says and what the files hold -----------------------------------------------------


@pytest.mark.parametrize(
    ("config", "named"),
    [
        (
            {"intermediate_size": 90},
            "mlp.gate_proj.weight has the shape [96, 64], but config.json asks for [90,",
        ),
        ({"num_key_value_heads": 1}, "self_attn.k_proj.weight has the shape [32, 64]"),
        ({"num_key_value_heads": 4}, "self_attn.k_proj.weight has the shape [32, 64]"),
        ({"num_attention_heads": 2, "head_dim": 32}, "self_attn.k_proj.weight has the shape [32, 64]"),
        (
            {"head_dim": 32},
            "q_proj.weight has the shape [64, 64], but config.json asks for [128, 64]",
        ),
        ({"hidden_size": 32}, "model.embed_tokens.weight has the shape [300, 64]"),
        (
            {"vocab_size": 320},
            "model.embed_tokens.weight has the shape [300, 64], but config.json asks for [320,",
        ),
        ({"vocab_size": 280}, "model.embed_tokens.weight has the shape [300, 64]"),
        ({"num_hidden_layers": 4}, "no tensor 'model.layers.3.self_attn.q_proj.weight'"),
        ({"num_hidden_layers": 2}, "has the tensor 'model.layers.2.input_layernorm.weight', "),
        ({"attention_bias": True}, "no tensor 'model.layers.0.self_attn.q_proj.bias'"),
        ({"architectures": None, "model_type": "qwen3", "head_dim": 16}, "self_attn.q_norm.weight'"),
    ],
)
def test_a_configuration_that_does_not_fit_the_tensors_is_refused_naming_them(checkpoint, config, named):
    assert named in refusal(checkpoint(**config))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_tensor_of_every_family_is_compared(model_folder, tmp_path, family):
    """One after the other is cut, left out, and given a companion that nobody asked for."""
    source = model_folder(family)
    tensors = load_file(source / "model.safetensors")
    shutil.copy(source / "config.json", tmp_path)
    small = {name: tensor for name, tensor in tensors.items() if ".layers.0." in name or "layers" not in name}
    for name, tensor in small.items():
        for changed in (
            tensors | {name: tensor[:-1].contiguous()},
            {other: tensors[other] for other in tensors if other != name},
            tensors | {f"{name}.more": torch.zeros(2)},
        ):
            save_file(changed, tmp_path / "model.safetensors", metadata={"format": "pt"})
            assert name.rpartition(".")[0] in refusal(tmp_path)


@pytest.mark.parametrize("rows", [280, 320])
def test_a_head_of_another_size_than_the_embedding_is_refused(checkpoint, rows):
    folder = checkpoint(
        tensors=lambda tensors: tensors | {HEAD: tensors[HEAD].repeat(2, 1)[:rows].contiguous()}
    )
    assert f"the tensor lm_head.weight has the shape [{rows}, 64]" in refusal(folder)


def test_many_missing_tensors_are_named_by_the_first_few(checkpoint):
    folder = checkpoint(tensors=lambda tensors: {HEAD: tensors[HEAD]})
    message = refusal(folder)
    assert "'model.embed_tokens.weight', 'model.layers.0.self_attn.q_proj.weight'" in message
    assert "and 26 more" in message


def test_weights_of_a_type_that_is_no_float_are_refused(checkpoint):
    folder = checkpoint(tensors=lambda tensors: tensors | {HEAD: tensors[HEAD].to(torch.int8)})
    assert "the tensor lm_head.weight has the type I8; supported are" in refusal(folder)


def test_tables_that_older_tools_saved_are_no_left_overs(checkpoint):
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    folder = checkpoint(tensors=lambda tensors: tensors | {name: torch.ones(8)})
    assert tokens(folder) == expected("llama", prompt(31))


@pytest.mark.parametrize("settings", [AWQ, GPTQ])
def test_a_four_bit_configuration_with_float_weights_is_refused(checkpoint, settings):
    message = refusal(checkpoint(quantization_config=settings))
    assert f"quantization_config says {settings['quant_method']}, but the files hold no qweight" in message


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_biases_that_a_four_bit_checkpoint_adds_are_left_out_where_they_are_zeros(tmp_path, value):
    quantised = Quantised("llama", GPTQ)
    path = quantised.save(tmp_path) / "model.safetensors"
    name = "model.layers.0.mlp.down_proj.bias"
    save_file(load_file(path) | {name: torch.full((64,), value)}, path)
    if value:
        assert name in refusal(tmp_path)
    else:
        assert tokens(tmp_path, dtype="float32") == quantised.expected(prompt(31))


# As transformers reads them -----------------------------------------------------------------------


def other_head(tensors: Tensors) -> Tensors:
    noise = torch.randn(tensors[EMBEDDING].shape, generator=torch.Generator().manual_seed(3))
    return tensors | {HEAD: tensors[EMBEDDING] + 0.3 * noise}


@pytest.mark.parametrize(
    "tensors",
    [
        other_head,
        lambda tensors: tensors | {HEAD: tensors[EMBEDDING].clone()},
        lambda tensors: {HEAD if name == EMBEDDING else name: tensor for name, tensor in tensors.items()},
        lambda tensors: {name.removeprefix("model."): tensor for name, tensor in tensors.items()},
    ],
    ids=["a head of its own", "the same twice", "under the head's name", "saved from the base model"],
)
def test_tied_weights_are_read_as_transformers_reads_them(checkpoint, tensors):
    folder = checkpoint("qwen2", tensors)  # whose head is tied
    assert tokens(folder, dtype="float32") == of_transformers(folder)


def test_a_head_that_is_said_to_be_its_own_must_be_there(checkpoint):
    assert "no tensor 'lm_head.weight'" in refusal(checkpoint("qwen2", tie_word_embeddings=False))


@pytest.mark.parametrize("says", ["torch.float32", "auto", None])
def test_a_type_may_be_said_in_full_or_left_to_the_tensors(checkpoint, says):
    folder = checkpoint(dtype=None, torch_dtype=says)
    engine = load(folder)
    assert engine.model_info.dtype == "float32"
    assert tokens(folder) == expected("llama", prompt(31))


def test_a_type_that_torch_does_not_know_matters_only_where_it_counts(checkpoint):
    folder = checkpoint(dtype="float3")
    assert "dtype='float3', which is not a floating-point type of torch" in refusal(folder)
    assert load(folder, dtype="float32").model_info.dtype == "float32"


def test_a_damaged_generation_config_is_left_out_with_a_word(checkpoint, caplog):
    folder = checkpoint()
    (folder / "generation_config.json").write_text("{")
    assert tokens(folder) == expected("llama", prompt(31))
    assert ["generation_config.json can't be read" in record.getMessage() for record in caplog.records] == [
        True
    ]


def test_a_sharded_checkpoint_loads(tmp_path):
    _model("llama").save_pretrained(tmp_path, max_shard_size="50KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    assert tokens(tmp_path) == expected("llama", prompt(31))


# Files that are not whole -------------------------------------------------------------------------


def test_a_file_cut_anywhere_is_refused_in_one_sentence(checkpoint):
    folder = checkpoint()
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    for size in (0, 4, 8, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        assert f"model.safetensors ({size} bytes) can't be read as safetensors" in refusal(folder)
    path.write_bytes(b"\xff" * 8 + whole[8:])
    assert "can't be read as safetensors" in refusal(folder)
    path.write_bytes(whole + b"more")
    assert "can't be read as safetensors" in refusal(folder)


def test_a_pointer_of_git_lfs_is_known_by_its_text(checkpoint):
    folder = checkpoint()
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    assert "is a Git LFS pointer, not the file itself; fetch it with `git lfs pull`" in refusal(folder)


@pytest.mark.parametrize(
    ("index", "named"),
    [
        (
            {"weight_map": {"a": "model-2.safetensors"}},
            "names model-2.safetensors, which is not there",
        ),
        ({"weight_map": {"a": "../model.safetensors"}}, "has no weight_map"),
        ({"weight_map": {}}, "has no weight_map"),
        ({"weight_map": {"a": 7}}, "has no weight_map"),
        ({}, "has no weight_map"),
        ([], "doesn't contain a JSON object"),
    ],
)
def test_an_index_that_names_no_files_is_refused(checkpoint, index, named):
    folder = checkpoint()
    (folder / "model.safetensors").rename(folder / "model-1.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert named in refusal(folder)


# What is no checkpoint ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "named"),
    [
        ("/nope", "there is no folder '/nope' here"),
        ("./models/llama", "there is no folder './models/llama' here"),
        ("a/b/c", "there is no folder 'a/b/c' here"),
        ("model.gguf", "'model.gguf' is a GGUF file; only safetensors checkpoints are supported"),
        (__file__, "is a file; give the folder that holds config.json and the weights"),
    ],
)
def test_a_path_that_is_no_folder_is_told_from_a_hub_name(model, named):
    with pytest.raises(ModelError) as refused:
        Engine(EngineConfig(model=model))
    assert named in str(refused.value)


@pytest.mark.parametrize(
    ("file", "named"),
    [
        ("adapter_config.json", "holds a LoRA adapter, not a model"),
        ("x.gguf", "holds a GGUF file"),
    ],
)
@pytest.mark.parametrize("config", [True, False])
def test_a_folder_of_something_else_is_known_by_its_files(checkpoint, file, named, config):
    folder = checkpoint()
    (folder / "model.safetensors").unlink()
    (folder / file).write_text("{}")
    if not config:
        (folder / "config.json").unlink()
    assert named in refusal(folder)


@pytest.mark.parametrize(
    ("family", "config", "options", "named"),
    [
        ("mixtral", {}, {"dtype": "bfloat16"}, "a model without experts"),
        ("llama", {}, {"dtype": "float32"}, "dtype bfloat16, not float32"),
        ("llama", {}, {"dtype": "float16"}, "dtype bfloat16, not float16"),
    ],
)
def test_int8_says_which_of_its_conditions_is_not_met(checkpoint, family, config, options, named):
    folder = checkpoint(family, **config)
    assert f"int8 weights need {named}" in refusal(folder, quantization="int8", **options)


# Settings beyond what is possible -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"max_context_tokens": 100_000}, "max_context_tokens is 100000, but .* takes at most 2048"),
        ({"kv_memory_bytes": 10**15}, f"kv_memory_bytes is {10**15}, .* bytes of memory here; lower it"),
        ({"num_pages": 10**12}, f"num_pages is {10**12}, which takes .* bytes of memory here; lower it"),
    ],
)
def test_a_setting_beyond_what_is_possible_is_refused_with_its_bound(model_folder, options, named):
    with pytest.raises(ModelError, match=named):
        load(model_folder("llama"), **options)


def test_more_threads_than_cores_are_warned_of(model_folder, caplog):
    load(model_folder("llama"), threads=1000, num_pages=8)
    torch.set_num_threads(1)
    assert ["threads is 1000, but this machine has" in record.getMessage() for record in caplog.records] == [
        True
    ]
