"""What LoRA adapters cost: a batch under several of them against the same batch of the base, in one run.

    python -m benchmarks.adapters [--model S] [--batch 32] [--adapters 4] [--rank 16] [--dtype bfloat16]

The adapters are random and on all maps of attention and MLPs; requests take them in turn. The cases take
turns, and the first round warms up.

- decode: tokens/s of sequences with prompts of 16 tokens, between the first token and the 17th
- prefill: tokens/s of 8 prompts of 256 tokens
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from statistics import median

import torch
from safetensors.torch import load_file, save_file

from headrace.engine import Adapter, Engine, EngineConfig, Request, SamplingParams
from headrace.engine.adapters.files import adapter_fingerprint

from .machine import machine, save
from .workload import SHAPES, save_model

MAPS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def save_adapter(folder: Path, base: Path, rank: int, seed: int) -> Adapter:
    """Save a random adapter for the model in the folder `base`."""
    random, tensors = torch.Generator().manual_seed(seed), {}
    for name, weight in load_file(base / "model.safetensors").items():
        module = name.removesuffix(".weight")
        if module.rpartition(".")[2] in MAPS:
            for half, shape in (("A", (rank, weight.shape[1])), ("B", (weight.shape[0], rank))):
                tensor = torch.randn(shape, generator=random) / 100
                tensors[f"base_model.model.{module}.lora_{half}.weight"] = tensor
    folder.mkdir()
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": rank, "target_modules": list(MAPS)}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return Adapter(folder.name, str(folder), adapter_fingerprint(folder))


def run(engine: Engine, count: int, prompt: int, tokens: int, adapters: list[Adapter | None]) -> float:
    """Seconds for so many requests at once."""
    params = SamplingParams(max_tokens=tokens, temperature=0.0, ignore_eos=True)
    for place in range(count):
        ids = list(range(3 + place, 3 + place + prompt))
        engine.submit(Request(str(place), ids, params, adapter=adapters[place % len(adapters)]))
    started = time.perf_counter()
    while engine.has_work:
        engine.step()
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=SHAPES, default="S")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--adapters", type=int, default=4)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="a file, or a folder to name it in")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        base = Path(name) / "base"
        save_model(SHAPES[options.model], base)
        loaded = [
            save_adapter(Path(name) / f"adapter-{seed}", base, options.rank, seed)
            for seed in range(options.adapters)
        ]
        usual = {"dtype": options.dtype, "threads": options.threads, "prefix_cache": False}
        usual |= {"kv_memory_bytes": 1 << 28, "max_batch_size": options.batch}
        plain = Engine(EngineConfig(str(base), **usual))
        engine = Engine(EngineConfig(str(base), **usual, max_adapters=options.adapters))
        cases: dict[str, tuple[Engine, list[Adapter | None]]] = {
            "base": (plain, [None]),
            "base, adapters allowed": (engine, [None]),
            "one adapter": (engine, [loaded[0]]),
            f"{options.adapters} adapters": (engine, [*loaded]),
            f"{options.adapters} adapters and the base": (engine, [None, *loaded]),
        }
        rates: dict[str, dict[str, list[float]]] = {case: {"decode": [], "prefill": []} for case in cases}
        for turn in range(options.rounds + 1):
            for case, (mine, adapters) in cases.items():
                short, long = (run(mine, options.batch, 16, tokens, adapters) for tokens in (1, 17))
                prefill = run(mine, 8, 256, 1, adapters)
                if turn:
                    rates[case]["decode"].append(options.batch * 16 / (long - short))
                    rates[case]["prefill"].append(8 * 256 / prefill)
    tokens_s = {case: {kind: median(each) for kind, each in mine.items()} for case, mine in rates.items()}
    facts: dict[str, object] = {
        "benchmark": "adapters",
        "machine": machine(),
        **{field: getattr(options, field) for field in ("model", "batch", "rank", "dtype", "threads")},
        "tokens_s": tokens_s,
    }
    if options.json:
        save(facts, options.json, f"adapters-{options.model}")
    print(f"model {options.model}, {options.dtype}, batch {options.batch}, rank {options.rank}")
    for case, mine in tokens_s.items():
        shown = (
            f"{kind} {rate:9.1f} tokens/s ({rate / tokens_s['base'][kind]:.2f})"
            for kind, rate in mine.items()
        )
        print(f"{case:>26}: {', '.join(shown)}")


if __name__ == "__main__":
    main()
