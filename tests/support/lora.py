"""Random LoRA adapters in PEFT's format, and models with such an adapter merged in."""

import json
import shutil
from math import sqrt
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from headrace.engine import Adapter
from headrace.engine.adapters.files import adapter_fingerprint

MODULES = {
    **dict.fromkeys(("q_proj", "k_proj", "v_proj", "o_proj"), "self_attn"),
    **dict.fromkeys(("gate_proj", "up_proj", "down_proj"), "mlp"),
}


def save_adapter(
    folder: Path,
    base: Path,
    *,
    rank: int = 4,
    seed: int = 0,
    modules: tuple[str, ...] = tuple(MODULES),
    **config: object,
) -> Path:
    """Save a random adapter for the model in the folder `base`."""
    generator = torch.Generator().manual_seed(seed)
    ranks: dict[str, int] = config.get("rank_pattern", {})  # type: ignore[assignment]
    tensors = {}
    for name, weight in load_file(base / "model.safetensors").items():
        module = name.removesuffix(".weight")
        if (last := module.rpartition(".")[2]) in modules:
            r = ranks.get(last, rank)
            for half, shape in (("A", (r, weight.shape[1])), ("B", (weight.shape[0], r))):
                tensors[f"base_model.model.{module}.lora_{half}.weight"] = (
                    torch.randn(shape, generator=generator) / 4
                )
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    usual = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": rank, "lora_alpha": rank, "bias": "none"}
    usual |= {
        "target_modules": list(modules),
        "use_rslora": False,
        "use_dora": False,
        "modules_to_save": None,
    }
    (folder / "adapter_config.json").write_text(json.dumps(usual | config))
    return folder


def merge(base: Path, adapter: Path, into: Path) -> Path:
    """Save the model W + scale·B·A, computed from PEFT's definition in float64."""
    config = json.loads((adapter / "adapter_config.json").read_text())
    weights, halves = load_file(base / "model.safetensors"), load_file(adapter / "adapter_model.safetensors")
    for name in [name for name in halves if name.endswith("lora_A.weight")]:
        module = name.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
        last = module.rpartition(".")[2]
        rank = config.get("rank_pattern", {}).get(last, config["r"])
        alpha = config.get("alpha_pattern", {}).get(last, config["lora_alpha"])
        scale = alpha / (sqrt(rank) if config["use_rslora"] else rank)
        a, b = halves[name].double(), halves[name.replace("lora_A", "lora_B")].double()
        weight = weights[f"{module}.weight"]
        weights[f"{module}.weight"] = (weight.double() + scale * b @ a).to(weight.dtype)
    shutil.copytree(base, into)
    save_file(weights, into / "model.safetensors", metadata={"format": "pt"})
    return into


def adapter_in(folder: Path, name: str = "mine") -> Adapter:
    """The adapter in a folder, with the fingerprint of its content now."""
    return Adapter(name, str(folder), adapter_fingerprint(folder))
