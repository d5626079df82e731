"""What a model's fingerprint stands for: all that decides tokens, and nothing else."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from headrace.engine import EngineConfig, ModelError, fingerprint, model_fingerprint


@pytest.fixture
def checkout(model_folder: Callable[[str], Path], tmp_path: Path) -> Path:
    """A copy of a checkpoint, to be changed."""
    folder = tmp_path / "checkout"
    shutil.copytree(model_folder("llama"), folder)
    return folder


@pytest.fixture
def original(model_folder: Callable[[str], Path]) -> str:
    return of(model_folder("llama"))


def of(folder: Path, **options: object) -> str:
    return model_fingerprint(EngineConfig(model=str(folder), **options))


def rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt", "note": "saved again"})


def test_another_checkout_of_the_same_checkpoint_has_the_same(checkout: Path, original: str) -> None:
    config = json.loads((checkout / "config.json").read_text())
    (checkout / "config.json").write_text(json.dumps(config | {"transformers_version": "9"}, indent=8))
    rewrite(checkout, lambda tensors: None)
    assert of(checkout) == original


def test_shards_do_not_matter(checkout: Path, original: str) -> None:
    tensors = load_file(checkout / "model.safetensors")
    (checkout / "model.safetensors").unlink()
    places = {name: f"part-{number % 3}.safetensors" for number, name in enumerate(sorted(tensors))}
    for file in set(places.values()):
        save_file({name: tensors[name] for name in tensors if places[name] == file}, checkout / file)
    (checkout / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    assert of(checkout) == original


def test_a_single_bit_of_any_weight_matters(
    checkout: Path, original: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where tensors are hashed in pieces."""
    monkeypatch.setattr(fingerprint, "PIECE_BYTES", 1000)
    whole = of(checkout)
    assert whole == of(checkout)
    seen = {whole}
    names = sorted(load_file(checkout / "model.safetensors"))
    for name in (names[0], names[len(names) // 2], names[-1]):

        def flip(tensors: dict[str, torch.Tensor], name: str = name) -> None:
            tensors[name].view(torch.int32).view(-1)[-1] ^= 1

        rewrite(checkout, flip)
        seen.add(of(checkout))
    assert len(seen) == 4


def test_weights_that_changed_places_are_others(checkout: Path, original: str) -> None:
    def swap(tensors: dict[str, torch.Tensor]) -> None:
        first, second = (f"model.layers.{layer}.mlp.up_proj.weight" for layer in (0, 1))
        tensors[first], tensors[second] = tensors[second], tensors[first]

    rewrite(checkout, swap)
    assert of(checkout) != original


@pytest.mark.parametrize(
    ("file", "change"),
    [("config.json", {"rms_norm_eps": 0.5}), ("generation_config.json", {"eos_token_id": [5, 9]})],
)
def test_what_its_configuration_says_matters(
    checkout: Path, original: str, file: str, change: dict[str, object]
) -> None:
    path = checkout / file
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    assert of(checkout) != original


def test_the_precision_matters_and_how_large_the_engine_is_does_not(
    model_folder: Callable[[str], Path], original: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = model_folder("llama")
    assert of(folder, dtype="float32", threads=2, page_size=8, max_batch_size=2, device="cuda") == original
    changes = {"dtype": "bfloat16", "quantization": "int8", "kv_dtype": "fp8", "deterministic": True}
    others = [of(folder, **{name: value}) for name, value in changes.items()]
    monkeypatch.setattr(fingerprint, "GENERATION", 0)
    assert len({original, *others, of(folder)}) == 6


def test_a_model_that_is_not_there_is_refused_as_by_the_engine(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"config\.json"):
        of(tmp_path)


def test_a_file_that_was_cut_off_is_refused(checkout: Path) -> None:
    path = checkout / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(ModelError, match="shorter than its header says"):
        of(checkout)
