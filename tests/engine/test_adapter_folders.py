"""A PEFT folder is somebody else's: what it has that isn't computed is refused by name."""

import json
import re

import pytest
import torch
from safetensors.torch import load_file, save_file

from headrace.engine import Adapter, Request, RequestError

from ..support.lora import adapter_in, save_adapter
from .conftest import greedy, prompt


@pytest.fixture(scope="module")
def engine(make_engine):
    return make_engine("llama", max_adapters=2, threads=1)


@pytest.fixture
def folder(model_folder, tmp_path):
    return save_adapter(tmp_path / "adapter", model_folder("llama"))


def refused(engine, folder, fingerprint) -> str:
    with pytest.raises(RequestError) as refusal:
        engine.submit(
            Request("a", list(prompt(5)), greedy(2), adapter=Adapter("mine", str(folder), fingerprint))
        )
    assert refusal.value.field == "adapter"
    assert refusal.value.reason.startswith("adapter 'mine' can't be loaded: ")
    return refusal.value.reason


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"peft_type": "IA3"}, "peft_type='IA3'; only LORA"),
        ({"use_dora": True}, "use_dora=True, which is not supported"),
        ({"bias": "all"}, "bias='all', which is not supported"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save="),
        ({"trainable_token_indices": [3]}, "trainable_token_indices="),
        ({"fan_in_fan_out": True}, "fan_in_fan_out=True"),
        ({"something_new": 3}, "something_new=3, which is not supported"),
        ({"init_lora_weights": "pissa_niter_4"}, "also changes the base model's weights"),
        ({"r": 65}, "r=65; a rank must be between 1 and 64"),
        ({"r": True}, "r=True; a rank"),
        ({"r": 8}, r"lora_A of model.layers.0.* is \[4, \d+\], but this model and rank 8 need \[8, "),
        ({"lora_alpha": float("inf")}, "lora_alpha=inf; it must be a finite number"),
        ({"lora_alpha": 10**400}, "lora_alpha=1000.*; it must be a finite number"),
        ({"use_rslora": 1}, "use_rslora=1; it must be true or false"),
        ({"rank_pattern": {"(a+)+b": 4}}, "only names of modules are supported, no patterns"),
        ({"rank_pattern": [4]}, "rank_pattern must be an object"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_a_config_asks_for_beyond_plain_lora_is_refused_by_name(
    engine, folder, changes, reason, request
):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    assert re.search(reason, refused(engine, folder, request.node.name))


def changed_tensors(folder, change):
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    save_file(change(tensors), path)


FIRST = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            lambda t: {**t, "base_model.model.lm_head.lora_A.weight": torch.ones(4, 64)},
            "lm_head.lora_A.weight', which changes more",
        ),
        (
            lambda t: {**t, "base_model.model.model.embed_tokens.lora_embedding_A": torch.ones(4, 300)},
            "lora_embedding_A', which",
        ),
        (
            lambda t: {**t, FIRST.replace("lora_A", "lora_magnitude_vector"): torch.ones(64)},
            "lora_magnitude_vector",
        ),
        (lambda t: {**t, FIRST.replace("layers.0", "layers.3"): torch.ones(4, 64)}, "this model's 3 layers"),
        (
            lambda t: {name: x for name, x in t.items() if name != FIRST},
            "only one of lora_A and lora_B of model.layers.0",
        ),
        (
            lambda t: {**t, FIRST: torch.ones(4, 32)},
            "is [4, 32], but this model and rank 4 need [4, 64]; is the adapter for",
        ),
        (
            lambda t: {**t, FIRST: torch.ones(4, 64, dtype=torch.int8)},
            "is torch.int8; supported are torch.float32,",
        ),
        (lambda _: {}, "has no tensors"),
    ],
    ids=["head", "embedding", "dora", "layer", "half", "shape", "dtype", "empty"],
)
def test_tensors_that_do_not_fit_are_refused_by_name(engine, folder, change, reason, request):
    changed_tensors(folder, change)
    assert reason in refused(engine, folder, request.node.name)


def test_only_safetensors_are_read(engine, folder):
    path = folder / "adapter_model.safetensors"
    path.write_bytes(b"\xff" * 64)
    assert "can't be read as safetensors" in refused(engine, folder, "damaged")
    path.rename(folder / "adapter_model.bin")
    assert "its pickled adapter_model.bin is never loaded" in refused(engine, folder, "pickled")


def test_a_folder_that_is_none_or_holds_no_adapter_is_refused(engine, model_folder, tmp_path):
    assert f"there is no folder '{tmp_path / 'nowhere'}' here" in refused(
        engine, tmp_path / "nowhere", "nowhere"
    )
    assert "File name too long" in refused(engine, "/" + "x" * 300, "long")
    assert "holds no adapter_config.json" in refused(engine, model_folder("llama"), "model")
    (tmp_path / "adapter_config.json").write_text(" " * (1 << 20) + "{}")
    assert "at most 1048576 are read" in refused(engine, tmp_path, "huge")


def test_an_adapter_of_a_base_without_its_head_is_read(engine, folder):
    changed_tensors(
        folder, lambda t: {name.replace("model.model.model.", "model.model."): x for name, x in t.items()}
    )
    adapter = adapter_in(folder)
    engine.load_adapter(adapter)
    assert adapter.fingerprint in engine._adapters.fingerprints


def test_a_folder_whose_content_has_changed_is_refused(engine, folder):
    adapter = adapter_in(folder)
    changed_tensors(folder, lambda t: {**t, FIRST: 2 * t[FIRST]})
    reason = refused(engine, folder, adapter.fingerprint)
    assert f"has the fingerprint {adapter_in(folder).fingerprint}, not {adapter.fingerprint}" in reason
