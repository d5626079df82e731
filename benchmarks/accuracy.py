"""What a smaller type of weights costs in accuracy: the built-in model on text that it wrote in float32.

    python -m benchmarks.accuracy [--texts 64] [--tokens 256] [--json FILE]

The float32 engine, which gives the tokens of `transformers`, draws the texts at temperature 1. Every way of
holding the weights then computes the logits of all their tokens.
"""

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

import headrace.workers
from headrace.engine import Engine, EngineConfig, Request, SamplingParams
from headrace.engine.models.cache import KVCache
from headrace.engine.models.config import ModelConfig, load_config
from headrace.engine.models.decoder import Model
from headrace.engine.models.source import read_json
from headrace.engine.models.weights import load_decoder
from headrace.engine.step_input import StepInput

from .machine import machine, save
from .tables import accuracy_table

MODEL = Path(headrace.workers.__file__).parent / "demo_model"
WAYS: dict[str, tuple[torch.dtype, bool]] = {
    "float32": (torch.float32, False),
    "bfloat16": (torch.bfloat16, False),
    "int8": (torch.bfloat16, True),
}
"""Each way's type, and whether weights, and with them the inputs of products, are rounded to bytes."""

_PAGE_SIZE = 16


def draw(texts: int, tokens: int) -> list[list[int]]:
    """Texts of the model's own, each begun by another token."""
    engine = Engine(EngineConfig(model=str(MODEL), dtype="float32", max_context_tokens=tokens))
    for number in range(texts):
        params = SamplingParams(max_tokens=tokens - 1, temperature=1.0, seed=number, ignore_eos=True)
        engine.submit(Request(str(number), [100 + number], params))
    drawn = [[100 + number] for number in range(texts)]
    while engine.has_work:
        for progress in engine.step():
            drawn[int(progress.id)] += progress.token_ids
    return drawn


@torch.inference_mode()
def log_probabilities(model: Model, config: ModelConfig, dtype: torch.dtype, tokens: list[int]) -> Tensor:
    """float64 [tokens - 1, vocab]: of each next token."""
    count = len(tokens)
    pages = -(-count // _PAGE_SIZE)
    cache = KVCache.zeros(config, pages, _PAGE_SIZE, dtype, torch.device("cpu"))
    positions = torch.arange(count)
    whole = torch.tensor([0, count], dtype=torch.int32)
    step = StepInput(
        token_ids=torch.tensor(tokens),
        positions=positions,
        slots=positions,
        query_starts=whole,
        context_lens=whole[1:],
        block_tables=torch.arange(pages, dtype=torch.int32)[None],
        sampled=None,
    )
    return F.log_softmax(model.forward(step, cache)[:-1].double(), dim=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--texts", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--json", type=Path, help="a file, or a folder to name it in")
    options = parser.parse_args()
    config = load_config(str(MODEL), read_json(MODEL / "config.json"), {})
    models = {
        name: load_decoder(
            MODEL, config, dtype, torch.device("cpu"), positions=options.tokens, rows_hint=256, int8=int8
        )
        for name, (dtype, int8) in WAYS.items()
    }
    totals = {name: torch.zeros(3, dtype=torch.float64) for name in WAYS}
    for tokens in draw(options.texts, options.tokens):
        reference = log_probabilities(models["float32"], config, torch.float32, tokens)
        for name, (dtype, _) in WAYS.items():
            own = log_probabilities(models[name], config, dtype, tokens)
            surprise = -own.gather(1, torch.tensor(tokens[1:])[:, None]).sum()
            agreed = (own.argmax(1) == reference.argmax(1)).sum()
            divergence = (reference.exp() * (reference - own)).sum()
            totals[name] += torch.stack((surprise, agreed, divergence))
    count = options.texts * (options.tokens - 1)
    facts: dict[str, object] = {
        "benchmark": "accuracy",
        "machine": machine(),
        "tokens": count,
        "rows": {
            name: dict(zip(("surprise", "agreed", "divergence"), (total / count).tolist(), strict=True))
            for name, total in totals.items()
        },
    }
    if options.json:
        save(facts, options.json, "accuracy")
    print(accuracy_table(facts))


if __name__ == "__main__":
    main()
