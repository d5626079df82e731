"""Deterministic mode against the default: which bits the batch changes without it, and what it costs.

    python -m benchmarks.determinism [--model S] [--threads 2] [--rounds 3] [--json FILE]

For each type, two engines on the same weights take turns in one process; the first round warms up. A request
is computed alone and among others; its log-probabilities are compared bit by bit.

- decode: tokens/s of 64 sequences with prompts of 16 tokens, between the first token and the 17th
- prefill: tokens/s of 8 prompts of 256 tokens
"""

import argparse
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from statistics import median

import torch

from headrace.engine import Engine, EngineConfig, Request, SamplingParams

from .machine import machine, save
from .tables import determinism_table
from .workload import SHAPES, Item, save_model

DTYPES = ("float32", "bfloat16")
NEIGHBOURS = (1, 2, 8, 44, 64, 256)
MODES = {"default": False, "deterministic": True}


def run(engine: Engine, items: list[Item]) -> float:
    """Seconds for all of them at once."""
    for place, item in enumerate(items):
        params = SamplingParams(max_tokens=item.output_tokens, temperature=0.0, ignore_eos=True)
        engine.submit(Request(str(place), list(item.prompt_ids), params))
    started = time.perf_counter()
    while engine.has_work:
        engine.step()
    return time.perf_counter() - started


def speeds(engine: Engine) -> dict[str, float]:
    """Tokens a second of each case."""
    prompt = tuple(range(3, 259))
    short, long = (run(engine, [Item(prompt[:16], tokens)] * 64) for tokens in (1, 17))
    prefill = run(engine, [Item(prompt, 1)] * 8)
    return {"decode": 64 * 16 / (long - short), "prefill": 8 * 256 / prefill}


def logprobs(engine: Engine, neighbours: int) -> list[float]:
    """Those of one request's tokens beside this many others."""
    asked = SamplingParams(max_tokens=8, temperature=0.0, ignore_eos=True, logprobs=0)
    for place in range(neighbours):
        params = SamplingParams(max_tokens=4, temperature=0.0, ignore_eos=True)
        engine.submit(Request(str(place), list(range(3, 4 + place % 40)), params))
    engine.submit(Request("needle", list(range(9, 59)), asked))
    found: list[float] = []
    while engine.has_work:
        for progress in engine.step():
            if progress.id == "needle":
                found += [each.logprob for each in progress.logprobs]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=SHAPES, default="S")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="a file, or a folder to name it in")
    options = parser.parse_args()
    shape = SHAPES[options.model]
    found: dict[str, dict[str, dict[str, object]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        save_model(shape, Path(folder))
        for dtype in DTYPES:
            engines = {
                mode: Engine(
                    EngineConfig(
                        model=folder,
                        dtype=dtype,
                        deterministic=deterministic,
                        max_batch_size=257,
                        kv_memory_bytes=1 << 29,
                        prefix_cache=False,
                        threads=options.threads,
                    )
                )
                for mode, deterministic in MODES.items()
            }
            alone = {mode: logprobs(engine, 0) for mode, engine in engines.items()}
            same = {
                mode: [count for count in NEIGHBOURS if logprobs(engine, count) == alone[mode]]
                for mode, engine in engines.items()
            }
            rounds: dict[str, list[dict[str, float]]] = {mode: [] for mode in MODES}
            for number in range(options.rounds + 1):
                for mode, engine in engines.items():
                    taken = speeds(engine)
                    if number:
                        rounds[mode].append(taken)
            found[dtype] = {
                mode: {
                    **{case: median(each[case] for each in rounds[mode]) for case in ("decode", "prefill")},
                    "same": same[mode],
                }
                for mode in MODES
            }
    facts: dict[str, object] = {
        "benchmark": "determinism",
        "machine": machine(),
        "model": asdict(shape),
        "rounds": options.rounds,
        "neighbours": NEIGHBOURS,
        "dtypes": found,
    }
    if options.json:
        save(facts, options.json, f"determinism-{shape.name}")
    print(determinism_table(facts))


if __name__ == "__main__":
    main()
