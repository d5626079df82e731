"""A model that computes little, and says something else with every token."""

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file

from headrace.workers.models import resolve_model

_SHAPE = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "tie_word_embeddings": False,  # or it would repeat its prompt's last token
}


def small_model(folder: Path) -> Path:
    """The built-in model's tokenizer and context with one layer of random weights; its name is "demo"."""
    made = folder / "demo"
    shutil.copytree(resolve_model("demo"), made)
    config = json.loads((made / "config.json").read_text()) | _SHAPE | {"dtype": "float32"}
    (made / "config.json").write_text(json.dumps(config))
    hidden, inner, head = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    query, key = config["num_attention_heads"] * head, config["num_key_value_heads"] * head
    layer = "model.layers.0."
    shapes = {
        "model.embed_tokens.weight": (config["vocab_size"], hidden),
        "lm_head.weight": (config["vocab_size"], hidden),
        f"{layer}self_attn.q_proj.weight": (query, hidden),
        f"{layer}self_attn.k_proj.weight": (key, hidden),
        f"{layer}self_attn.v_proj.weight": (key, hidden),
        f"{layer}self_attn.o_proj.weight": (hidden, query),
        f"{layer}mlp.gate_proj.weight": (inner, hidden),
        f"{layer}mlp.up_proj.weight": (inner, hidden),
        f"{layer}mlp.down_proj.weight": (hidden, inner),
    }
    random = torch.Generator().manual_seed(1)
    tensors = {name: 0.35 * torch.randn(shape, generator=random) for name, shape in shapes.items()}
    norms = ("model.norm.weight", f"{layer}input_layernorm.weight", f"{layer}post_attention_layernorm.weight")
    save_file(tensors | {name: torch.ones(hidden) for name in norms}, made / "model.safetensors")
    return made
