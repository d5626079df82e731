"""What the benchmarks run: random models of stated shapes, and requests of mixed lengths."""

import platform
import random
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch


@dataclass(frozen=True)
class Shape:
    """A Llama-shaped model with random weights."""

    name: str
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int


S = Shape("S", hidden=512, layers=8, heads=8, kv_heads=4, head_dim=64, intermediate=2048, vocab=8192)
M = Shape("M", hidden=1024, layers=28, heads=16, kv_heads=8, head_dim=128, intermediate=3072, vocab=32_000)
SHAPES = {shape.name: shape for shape in (S, M)}


def save_model(shape: Shape, folder: Path, dtype: torch.dtype = torch.bfloat16) -> None:
    """Write the model's checkpoint; without an end-of-sequence token, lengths are what was asked for."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        intermediate_size=shape.intermediate,
        vocab_size=shape.vocab,
        max_position_embeddings=4096,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
    )
    LlamaForCausalLM(config).to(dtype).save_pretrained(folder)


@dataclass(frozen=True)
class Item:
    """One request: its prompt and how many tokens to generate."""

    prompt_ids: tuple[int, ...]
    output_tokens: int


def workload(
    requests: int, vocab: int, *, prompts: tuple[int, int] = (16, 256), outputs: tuple[int, int] = (8, 192)
) -> list[Item]:
    """Requests with uniform lengths, the same each time."""
    rng = random.Random(0)
    return [
        Item(
            tuple(rng.randrange(3, vocab) for _ in range(rng.randint(*prompts))),
            rng.randint(*outputs),
        )
        for _ in range(requests)
    ]


def machine() -> dict[str, str | int]:
    """What a figure has to be read with."""
    return {
        "cpu": _cpu(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        **{name: _version(name) for name in ("torch", "transformers", "redis", "celery")},
    }


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown"
    )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
