"""headrace's engine against `transformers` and every installed peer, on the same weights in the same run.

    python -m benchmarks.engine [--model S] [--threads 2] [--rounds 3] [--only NAME ...] [--json FILE]

Contenders are the files in `benchmarks/peers/`; `make peers` installs those that need an environment of their
own. Each runs in a process of its own and takes its turn in every round, so that a machine whose speed drifts
is unfair to nobody; the first round warms up, and medians of the others are compared. The cases:

- workload: all requests at once, prompts of 16 to 256 tokens, outputs of 8 to 192
- first, alone: one request with a prompt of 128, for its first token and for 64
- prefill: 16 prompts of 256 tokens, one output token each
- decode: as many prompts of 64 tokens as the workload has requests, for 64 output tokens more than one
"""

import argparse
import os
import signal
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Self

import torch

from .ceilings import copy_bytes_per_s, linears_s, matmul_flops
from .contender import PEERS, Contender, Lost, contender
from .machine import machine, save
from .tables import engine_table
from .workload import SHAPES, Item, Shape, save_model, workload

OWN = ("headrace", "transformers_static", "transformers_continuous")
NAMES = sorted(
    (path.stem for path in PEERS.glob("*.py") if path.stem != "main"), key=lambda n: (n not in OWN, n)
)
ENVIRONMENTS = Path(os.environ.get("PEERS_DIR", PEERS.parents[1] / ".peers"))

REPEATS = 5
"""Of the short cases, in each round."""


def cases(requests: int, vocab: int) -> dict[str, list[Item]]:
    """What every contender runs."""
    prompt = tuple(range(3, 259))
    return {
        "workload": workload(requests, vocab),
        "first": [Item(prompt[:128], 1)],
        "alone": [Item(prompt[:128], 64)],
        "prefill": [Item(prompt, 1)] * min(16, requests),
        "decode_1": [Item(prompt[:64], 1)] * requests,
        "decode_65": [Item(prompt[:64], 65)] * requests,
    }


def python_of(name: str) -> Path:
    """The interpreter of a contender.

    Raises:
        Lost: it has no environment here.
    """
    if name in OWN:
        return Path(sys.executable)
    python = ENVIRONMENTS / name / "bin" / "python"
    if not python.exists():
        raise Lost("not installed: make peers")
    return python


class Race:
    """The contenders of one run and what was measured of them.

    Attributes:
        seconds: of each contender, by case, one entry a run.
        lost: why a contender could not be measured, or not to the end.
    """

    def __init__(self, names: list[str], spec: dict[str, object], folder: Path, limit_s: float) -> None:
        self.seconds: dict[str, dict[str, list[float]]] = {}
        self.versions: dict[str, dict[str, str]] = {}
        self.lost: dict[str, str] = {}
        self._names, self._spec, self._folder, self._limit_s = names, spec, folder, limit_s
        self._running: list[Contender] = []
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            for name in self._names:
                try:
                    scratch = self._folder / name
                    scratch.mkdir()
                    spec = self._spec | {"scratch": str(scratch)}
                    started = stack.enter_context(contender(name, python_of(name), spec, scratch))
                    started.wait_ready(self._limit_s)
                    self._running.append(started)
                    self.versions[name], self.seconds[name] = started.versions, {}
                except Lost as error:
                    self._lose(name, error)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def run(self, case: str, items: list[Item], repeats: int, *, keep: bool) -> None:
        """One turn of every contender."""
        for each in list(self._running):
            try:
                seconds = [each.run(items, self._limit_s) for _ in range(repeats)]
            except Lost as error:
                self._running.remove(each)
                each.close()
                self._lose(each.name, error)
                continue
            if keep:
                self.seconds[each.name].setdefault(case, []).extend(seconds)

    def _lose(self, name: str, error: Lost) -> None:
        self.lost[name] = str(error)
        print(f"  {name} is out: {error}", file=sys.stderr)


def ceilings(shape: Shape, rows: list[int], device: str, *, int8: bool) -> dict[str, object]:
    """The machine's ceilings, and what this model's linear maps take alone at these numbers of rows."""
    found: dict[str, object] = {
        "copy_bytes_per_s": copy_bytes_per_s(device),
        "matmul_flops": matmul_flops(device, int8=int8),
        "linears_s": {
            part: {str(count): seconds for count, seconds in by_rows.items()}
            for part, by_rows in linears_s(shape, rows, device).items()
        },
    }
    if device != "cpu":
        torch.cuda.empty_cache()  # or the contenders would miss it
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=SHAPES, default="S")
    parser.add_argument("--requests", type=int, default=64)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="*", choices=NAMES, default=NAMES)
    parser.add_argument("--cases", nargs="*", help="some of the cases only")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--quantization", choices=["int8"], help="of the weights; bf16 without")
    parser.add_argument(
        "--step-tokens", type=int, default=512, help="most rows of a step, where it can be set"
    )
    parser.add_argument("--limit", type=float, default=900, help="seconds after which a contender is out")
    parser.add_argument(
        "--json", type=Path, help="a file, or a folder to name it in; written after every round"
    )
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped by SIGTERM; what was measured is written"))
    torch.set_num_threads(options.threads)
    shape, device = SHAPES[options.model], options.device
    work = cases(options.requests, shape.vocab)
    chosen = options.cases or list(work)
    what = "-".join(filter(None, ("engine", shape.name, options.quantization)))
    with tempfile.TemporaryDirectory() as root:
        model = Path(root) / "model"
        save_model(shape, model, device=device)
        spec = {
            "model": str(model),
            "device": device,
            "threads": options.threads,
            "requests": options.requests,
            "context": 512,
            "step_tokens": options.step_tokens,
            "quantization": options.quantization,
        }
        facts: dict[str, object] = {
            "benchmark": "engine",
            "machine": machine(),
            "model": asdict(shape) | {"weights": shape.weights, "kv_elements": shape.kv_elements},
            "options": {name: value for name, value in vars(options).items() if name != "json"},
            "cases": {
                name: {
                    "requests": len(items),
                    "prompt_tokens": sum(len(item.prompt_ids) for item in items),
                    "output_tokens": sum(item.output_tokens for item in items),
                }
                for name, items in work.items()
            },
        }
        rows, int8 = [options.requests, options.step_tokens], options.quantization == "int8"
        facts["ceilings"] = ceilings(shape, rows, device, int8=int8)
        with Race(options.only, spec, Path(root), options.limit) as race:
            for round_ in range(options.rounds + 1):
                started = time.monotonic()
                for case in chosen:
                    short = case in ("first", "alone") and round_ > 0
                    race.run(case, work[case], REPEATS if short else 1, keep=round_ > 0)
                facts |= {
                    "seconds": race.seconds,
                    "versions": race.versions,
                    "lost": race.lost,
                    "rounds": round_,
                }
                if options.json and round_:
                    save(facts, options.json, what)
                print(f"  round {round_}: {time.monotonic() - started:.0f} s", file=sys.stderr)
    print(engine_table(facts))


if __name__ == "__main__":
    main()
