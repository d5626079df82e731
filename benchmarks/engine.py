"""The bare engine against `transformers`: output tokens a second on the same weights in the same run.

    python -m benchmarks.engine [--model S] [--requests 64] [--threads 2] [--runs 3] [--json FILE]

Every contender is a function from the model's folder and the requests to a callable that runs them all; the
runs alternate, so that a machine whose speed drifts is unfair to nobody, and medians are compared.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from headrace.engine import Engine, EngineConfig, Request, SamplingParams

from .workload import SHAPES, Item, machine, save_model, workload

Run = Callable[[], None]
STATIC_BATCH = 16


def headrace_engine(folder: Path, items: list[Item], threads: int) -> Run:
    """All requests at once, greedy, no prefix shared."""
    engine = Engine(EngineConfig(model=str(folder), threads=threads, prefix_cache=False))

    def run() -> None:
        for number, item in enumerate(items):
            params = SamplingParams(max_tokens=item.output_tokens, temperature=0.0, ignore_eos=True)
            engine.submit(Request(str(number), list(item.prompt_ids), params))
        tokens = 0
        while engine.has_work:
            tokens += sum(len(progress.token_ids) for progress in engine.step())
        assert tokens == sum(item.output_tokens for item in items)

    return run


def transformers_static(folder: Path, items: list[Item], threads: int) -> Run:
    """Static batches of 16 in order of arrival, padded left, each run to its longest request."""
    from transformers import LlamaForCausalLM

    torch.set_num_threads(threads)
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval()

    def run() -> None:
        for start in range(0, len(items), STATIC_BATCH):
            batch = items[start : start + STATIC_BATCH]
            width = max(len(item.prompt_ids) for item in batch)
            ids = torch.zeros(len(batch), width, dtype=torch.int64)
            mask = torch.zeros_like(ids)
            for row, item in enumerate(batch):
                ids[row, width - len(item.prompt_ids) :] = torch.tensor(item.prompt_ids)
                mask[row, width - len(item.prompt_ids) :] = 1
            longest = max(item.output_tokens for item in batch)
            with torch.inference_mode():
                model.generate(
                    ids, attention_mask=mask, max_new_tokens=longest, do_sample=False, pad_token_id=0
                )

    return run


CONTENDERS: dict[str, Callable[[Path, list[Item], int], Run]] = {
    "headrace": headrace_engine,
    "transformers static": transformers_static,
}


def measure(names: list[str], folder: Path, items: list[Item], threads: int, runs: int) -> dict[str, float]:
    """Median output tokens a second of each contender, over alternating runs after a warm-up."""
    tokens = sum(item.output_tokens for item in items)
    ready = {name: CONTENDERS[name](folder, items, threads) for name in names}
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for round_ in range(runs + 1):
        for name, run in ready.items():
            started = time.perf_counter()
            run()
            if round_:
                seconds[name].append(time.perf_counter() - started)
    return {name: tokens / statistics.median(took) for name, took in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=SHAPES, default="S")
    parser.add_argument("--requests", type=int, default=64)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--only", nargs="*", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    shape = SHAPES[options.model]
    items = workload(options.requests, shape.vocab)
    with tempfile.TemporaryDirectory() as folder:
        save_model(shape, Path(folder))
        rates = measure(options.only, Path(folder), items, options.threads, options.runs)
    print(f"model {shape.name} (bf16), {options.requests} requests at once, {machine()}")
    for name, rate in rates.items():
        ratio = f"   headrace is {rates['headrace'] / rate:.2f} times as fast" if name != "headrace" else ""
        print(f"  {name:<22} {rate:8.0f} output tokens/s{ratio}")
    if options.json:
        facts = {"benchmark": "engine", "machine": machine(), "options": vars(options), "tokens_per_s": rates}
        options.json.write_text(json.dumps(facts, indent=1, default=str) + "\n")


if __name__ == "__main__":
    main()
