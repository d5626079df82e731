"""Embeddings a second: the engine against a plain loop over transformers, in one run, on the built-in model.

    python -m benchmarks.embeddings [--texts 256] [--rounds 3] [--dtype bfloat16] [--json FILE]

The texts have 8 to 256 random tokens, the same for both. The loop computes one text after the other, as
`transformers` does without a library around it; both have the same threads. Each round measures both.
"""

import argparse
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

import headrace.workers
from headrace.engine import Engine, EngineConfig, Pooling, Request, SamplingParams

from .machine import machine, save

MODEL = Path(headrace.workers.__file__).parent / "demo_model"


def draw(texts: int, vocab: int) -> list[list[int]]:
    """Random prompts, the same each time."""
    rng = random.Random(1)
    return [[rng.randrange(10, vocab) for _ in range(rng.randint(8, 256))] for _ in range(texts)]


def ours(engine: Engine, prompts: list[list[int]]) -> float:
    """Seconds that the engine takes."""
    started = time.perf_counter()
    for number, prompt in enumerate(prompts):
        engine.submit(Request(str(number), prompt, SamplingParams(), pooling=Pooling()))
    done = 0
    while engine.has_work:
        done += len(engine.step())
    assert done == len(prompts)
    return time.perf_counter() - started


def loop_of(dtype: torch.dtype) -> Callable[[list[list[int]]], float]:
    """What measures the loop."""
    from transformers import AutoModel

    model = AutoModel.from_pretrained(MODEL, dtype=dtype).eval()

    @torch.inference_mode()
    def theirs(prompts: list[list[int]]) -> float:
        started = time.perf_counter()
        for prompt in prompts:
            state = model(torch.tensor([prompt]), use_cache=False).last_hidden_state[0, -1].float()
            _ = (state / state.norm()).numpy()
        return time.perf_counter() - started

    return theirs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--texts", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--json", type=Path, help="a file, or a folder to name it in")
    options = parser.parse_args()
    # Without the prefix cache: later rounds would find the texts of the first.
    engine = Engine(EngineConfig(model=str(MODEL), dtype=options.dtype, prefix_cache=False))
    theirs = loop_of(getattr(torch, options.dtype))
    prompts = draw(options.texts, engine.model_info.vocab_size)
    ours(engine, prompts[:8]), theirs(prompts[:8])
    seconds: dict[str, list[float]] = {"headrace": [], "transformers": []}
    for _ in range(options.rounds):
        seconds["headrace"].append(ours(engine, prompts))
        seconds["transformers"].append(theirs(prompts))
    rates = {name: options.texts / statistics.median(each) for name, each in seconds.items()}
    ratio = rates["headrace"] / rates["transformers"]
    facts: dict[str, object] = {
        "benchmark": "embeddings",
        "machine": machine(),
        "texts": options.texts,
        "tokens": sum(map(len, prompts)),
        "dtype": options.dtype,
        "seconds": seconds,
        "ratio": ratio,
    }
    if options.json:
        save(facts, options.json, "embeddings")
    print(
        f"{options.texts} texts, {facts['tokens']} tokens, {options.dtype}, {torch.get_num_threads()} threads"
    )
    for name, rate in rates.items():
        print(f"{name:>14} {rate:8.1f} texts/s")
    print(f"headrace against it: {ratio:.2f}")


if __name__ == "__main__":
    main()
