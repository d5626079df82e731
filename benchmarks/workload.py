"""What the benchmarks run: random models of stated shapes, and requests of mixed lengths."""

import random
from dataclasses import dataclass
from pathlib import Path

import torch


@dataclass(frozen=True)
class Shape:
    """A decoder with random weights."""

    name: str
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int
    family: str = "llama"

    @property
    def linears(self) -> list[tuple[int, int]]:
        """(out, in) of one layer's linear maps, those of one input fused."""
        attention = self.heads * self.head_dim
        return [
            (attention + 2 * self.kv_heads * self.head_dim, self.hidden),
            (self.hidden, attention),
            (2 * self.intermediate, self.hidden),
            (self.hidden, self.intermediate),
        ]

    @property
    def weights(self) -> int:
        """Weights that a step reads: all linear maps, the head's too."""
        layer = sum(rows * columns for rows, columns in self.linears)
        return self.layers * layer + self.vocab * self.hidden

    @property
    def kv_elements(self) -> int:
        """Elements of keys and values that one token holds, over all layers."""
        return 2 * self.layers * self.kv_heads * self.head_dim


S = Shape("S", hidden=512, layers=8, heads=8, kv_heads=4, head_dim=64, intermediate=2048, vocab=8192)
M = Shape("M", hidden=1024, layers=28, heads=16, kv_heads=8, head_dim=128, intermediate=3072, vocab=32_000)
QWEN3_600M = Shape("Qwen3-0.6B", 1024, 28, 16, 8, 128, 3072, 151_936, family="qwen3")
LLAMA_8B = Shape("Llama-8B", 4096, 32, 32, 8, 128, 14_336, 128_256)
TINY = Shape("tiny", hidden=64, layers=2, heads=4, kv_heads=2, head_dim=16, intermediate=128, vocab=512)
SHAPES = {shape.name: shape for shape in (S, M, QWEN3_600M, LLAMA_8B, TINY)}


def save_model(
    shape: Shape,
    folder: Path,
    dtype: torch.dtype = torch.bfloat16,
    device: str = "cpu",
    *,
    context: int = 4096,
) -> None:
    """Write the model's checkpoint; without an end-of-sequence token, lengths are what was asked for."""
    from transformers import AutoModelForCausalLM, LlamaConfig, Qwen3Config

    torch.manual_seed(0)
    config = {"llama": LlamaConfig, "qwen3": Qwen3Config}[shape.family](
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        intermediate_size=shape.intermediate,
        vocab_size=shape.vocab,
        max_position_embeddings=context,
        tie_word_embeddings=shape.family == "qwen3",
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
    )
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    model.save_pretrained(folder)


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
