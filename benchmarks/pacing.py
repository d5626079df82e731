"""What long prompts do to running streams: the time between two tokens, without and with an objective for it.

    python -m benchmarks.pacing [--objective-ms N] [--prompts 4] [--rounds 3] [--threads 2] [--json FILE]

Streams decode all the time; one that ends is followed by another. Beside them come prompts of 8k tokens, each
when the one before has its first token. An engine without and one with the objective do this in turn, in one
run. Where none is given, the objective is four times what a step without a long prompt takes here.
"""

import argparse
import random
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median

import torch

from headrace.engine import Engine, EngineConfig, Request, SamplingParams

from .machine import machine, save
from .tables import pacing_table
from .workload import SHAPES, save_model

STREAM_PROMPT, STREAM_OUTPUT = 128, 256
CALM_STEPS = 40
DEFAULT_OBJECTIVE = 4.0


@dataclass(slots=True)
class Crowd:
    """Streams on an engine, and long prompts beside them.

    Attributes:
        gaps_s: from a stream's token to its next, of every pair since `watch`.
        waits_s: from a long prompt's arrival to its first token.
    """

    engine: Engine
    rng: random.Random
    gaps_s: list[float] = field(default_factory=list)
    waits_s: list[float] = field(default_factory=list)
    _since_s: dict[str, float] = field(default_factory=dict)
    _sent: int = 0
    _stopping: bool = False

    def send(self, kind: str, prompt_tokens: int, output_tokens: int) -> None:
        vocab = self.engine.model_info.vocab_size
        prompt = [self.rng.randrange(3, vocab) for _ in range(prompt_tokens)]
        params = SamplingParams(max_tokens=output_tokens, temperature=0.0, ignore_eos=True)
        self._sent += 1
        name = f"{kind}{self._sent}"
        self.engine.submit(Request(name, prompt, params))
        if kind == "prompt":
            self._since_s[name] = time.perf_counter()

    def start(self, streams: int) -> None:
        """So many streams, all of them decoding, that end one after the other."""
        for number in range(streams):
            self.send("stream", STREAM_PROMPT, STREAM_OUTPUT + number * STREAM_OUTPUT // streams)
        while len(self._since_s) < streams:
            self.step()

    def step(self) -> None:
        progress = self.engine.step()
        now = time.perf_counter()
        for item in progress:
            since_s = self._since_s.pop(item.id, None)
            if since_s is not None:
                (self.gaps_s if item.id.startswith("stream") else self.waits_s).append(now - since_s)
            if item.finish_reason is None:
                self._since_s[item.id] = now
            elif item.id.startswith("stream") and not self._stopping:
                self.send("stream", STREAM_PROMPT, STREAM_OUTPUT)

    def calm_gap_s(self) -> float:
        """Median time between tokens while there are only streams."""
        self.gaps_s.clear()
        for _ in range(CALM_STEPS):
            self.step()
        return median(self.gaps_s)

    def watch(self, prompts: int, tokens: int) -> dict[str, float]:
        """What streams and long prompts come to."""
        self.gaps_s.clear()
        before, started = self.engine.stats(), time.perf_counter()
        for number in range(prompts):
            self.send("prompt", tokens, 1)
            while len(self.waits_s) <= number:
                self.step()
        seconds = time.perf_counter() - started
        after, gaps_s = self.engine.stats(), sorted(self.gaps_s)
        return {
            "p50_s": median(gaps_s),
            "p99_s": gaps_s[len(gaps_s) * 99 // 100],
            "most_s": gaps_s[-1],
            "gaps": len(gaps_s),
            "output_tokens_per_s": len(gaps_s) / seconds,
            "prompt_tokens_per_s": prompts * tokens / seconds,
            "tokens_per_s": (after.step_tokens - before.step_tokens) / seconds,
            "first_token_s": median(self.waits_s),
        }

    def stop(self) -> None:
        self._stopping = True
        for name in self._since_s:
            self.engine.cancel(name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=SHAPES, default="S")
    parser.add_argument("--objective-ms", type=float)
    parser.add_argument("--streams", type=int, default=32)
    parser.add_argument("--prompts", type=int, default=4, help="long prompts a round")
    parser.add_argument("--prompt-tokens", type=int, default=8000)
    parser.add_argument("--step-tokens", type=int, default=512)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="a file, or a folder to name it in")
    options = parser.parse_args()
    shape = SHAPES[options.model]
    with tempfile.TemporaryDirectory() as folder:
        save_model(shape, Path(folder), context=options.prompt_tokens + STREAM_PROMPT + 2 * STREAM_OUTPUT)

        def engine(objective_s: float | None) -> Engine:
            page_size = 16
            held = options.prompt_tokens + options.streams * (STREAM_PROMPT + 2 * STREAM_OUTPUT)
            return Engine(
                EngineConfig(
                    model=folder,
                    threads=options.threads,
                    page_size=page_size,
                    num_pages=held // page_size + 1000,
                    max_batch_size=options.streams + 4,
                    max_step_tokens=options.step_tokens,
                    token_time_objective_s=objective_s,
                )
            )

        without = engine(None)
        crowd = Crowd(without, random.Random(0))
        crowd.start(options.streams)
        calm_s = crowd.calm_gap_s()
        crowd.stop()
        objective_s = options.objective_ms / 1000 if options.objective_ms else DEFAULT_OBJECTIVE * calm_s
        engines = {"without": without, "with": engine(objective_s)}
        rounds: dict[str, list[dict[str, float]]] = {name: [] for name in engines}
        for number in range(options.rounds):
            for name, each in engines.items():
                crowd = Crowd(each, random.Random(number + 1))
                crowd.start(options.streams)
                rounds[name].append(crowd.watch(options.prompts, options.prompt_tokens))
                crowd.stop()
                each.check()
    facts: dict[str, object] = {
        "benchmark": "pacing",
        "machine": machine(),
        "model": asdict(shape),
        "options": {name: value for name, value in vars(options).items() if name != "json"},
        "objective_s": objective_s,
        "calm_s": calm_s,
        "rounds": rounds,
    }
    if options.json:
        save(facts, options.json, f"pacing-{shape.name}")
    print(pacing_table(facts))


if __name__ == "__main__":
    main()
