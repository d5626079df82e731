"""What a step costs on the host, and what overlap and graphs gain: decodes of a full batch.

    python -m benchmarks.steps [--model S] [--device cpu] [--requests 256] [--json FILE]

Every way of launching steps gets the same requests, in turn, in one process; medians of the rounds.
"""

import argparse
import gc
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import torch

from headrace.engine import Engine, EngineConfig, Request, SamplingParams

from .machine import machine, save
from .tables import steps_table
from .workload import SHAPES, Shape, save_model

PROMPT, WARM = 64, 4


def ways(device: str) -> dict[str, dict[str, object]]:
    """The settings of each way; the first is the default."""
    if device == "cpu":
        return {"plain": {}, "overlapped": {"overlap": True}}
    return {
        "overlapped graphs": {},
        "graphs, one step at a time": {"serial": True},
        "overlapped, no graphs": {"cuda_graphs": False},
        "plain": {"overlap": False},
    }


class Decodes:
    """An engine whose batch is full of decodes."""

    def __init__(
        self, folder: Path, device: str, requests: int, steps: int, options: dict[str, object]
    ) -> None:
        settings = dict(options)
        self._serial = bool(settings.pop("serial", False))
        started = time.perf_counter()
        context = PROMPT + steps
        self._engine = Engine(
            EngineConfig(
                model=str(folder),
                device=device,
                max_batch_size=requests,
                max_step_tokens=max(512, requests),
                max_context_tokens=context,
                num_pages=requests * -(-context // 16) + 1,
                prefix_cache=False,
                **settings,
            )
        )
        self.ready_s = time.perf_counter() - started
        self._requests, self._steps = requests, steps

    def run(self) -> tuple[float, float]:
        """Seconds of a step, and of the host's part in it, once all decode."""
        for number in range(self._requests):
            prompt = [3 + (number * 31 + place) % 400 for place in range(PROMPT)]
            params = SamplingParams(max_tokens=self._steps, temperature=0.0, ignore_eos=True)
            self._engine.submit(Request(str(number), prompt, params))
        done, counts = 0, dict.fromkeys(range(self._requests), 0)
        while min(counts.values()) < WARM:
            for progress in self._engine.step():
                counts[int(progress.id)] += 1
        steps = self._steps - max(counts.values()) - 1
        before, started = self._engine.stats(), time.perf_counter()
        for _ in range(steps):
            done += len(self._engine.step())
            if self._serial:
                torch.cuda.synchronize()
        took, host = time.perf_counter() - started, self._engine.stats().host_s - before.host_s
        assert done == steps * self._requests
        while self._engine.has_work:
            self._engine.step()
        return took / steps, host / steps


def measure(
    shape: Shape, device: str, requests: int, steps: int, rounds: int
) -> Iterator[list[dict[str, object]]]:
    """After each round, a row for each way."""
    with tempfile.TemporaryDirectory() as root:
        save_model(shape, Path(root), device=device)
        engines = {
            name: Decodes(Path(root), device, requests, steps, options)
            for name, options in ways(device).items()
        }
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in engines}
        for round_ in range(rounds + 1):
            for name, engine in engines.items():
                gc.collect()
                took = engine.run()
                if round_:
                    found[name].append(took)
            if round_:
                yield [
                    {
                        "way": name,
                        "step_s": statistics.median(step for step, _ in took),
                        "host_s": statistics.median(host for _, host in took),
                        "ready_s": engines[name].ready_s,
                    }
                    for name, took in found.items()
                ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=SHAPES, default="S")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--requests", type=int, default=256)
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument(
        "--json", type=Path, help="a file, or a folder to name it in; written after every round"
    )
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    shape = SHAPES[options.model]
    facts: dict[str, object] = {
        "benchmark": "steps",
        "machine": machine(),
        "device": options.device,
        "model": asdict(shape),
        "requests": options.requests,
        "rounds": options.rounds,
    }
    for rows in measure(shape, options.device, options.requests, options.steps, options.rounds):
        facts["rows"] = rows
        if options.json:
            save(facts, options.json, f"steps-{options.device}-{shape.name}")
    print(steps_table(facts))


if __name__ == "__main__":
    main()
