"""What a schema costs: tokens a second of answers that follow one, against the same engine's without.

    python -m benchmarks.grammar [--model demo] [--batch 32] [--tokens 200] [--rounds 3] [--threads 2]

Both kinds take turns in one run, with the same prompts, seeds and numbers of tokens: a schema that never lets
an answer end keeps all rows busy. The first token under a grammar that was never compiled before is measured
apart.
"""

import argparse
import time
from statistics import median

import torch

from headrace.engine import Engine, EngineConfig, Request, SamplingParams
from headrace.schemas.wire import WireJob
from headrace.workers.engine_process.text import Grammars, Tokenizer, grammar_of
from headrace.workers.models import resolve_model

ENDLESS = {
    "type": "array",
    "minItems": 10_000,
    "items": {
        "type": "object",
        "properties": {"name": {"type": "string"}, "age": {"type": "integer"}, "tags": {"enum": ["a", "b"]}},
        "required": ["name", "age", "tags"],
        "additionalProperties": False,
    },
}


def grammar(schema: dict[str, object]) -> str:
    text = grammar_of(WireJob.make(model="m", prompt="x", structured_outputs={"json": schema}))
    assert text is not None
    return text


def run(engine: Engine, grammars: Grammars, batch: int, tokens: int, form: str | None) -> float:
    """Seconds a token of the whole batch, once all rows decode."""
    params = {"max_tokens": tokens, "ignore_eos": form is None}
    for number in range(batch):
        constraint = None if form is None else grammars.follow(form)
        sampling = SamplingParams(seed=number, **params)
        engine.submit(Request(f"{number}", [5 + number, 7, 9], sampling, constraint=constraint))
    engine.step()
    started, made = time.perf_counter(), 0
    while engine.has_work:
        made += sum(len(progress.token_ids) for progress in engine.step())
    return (time.perf_counter() - started) / made


def first_token_s(engine: Engine, grammars: Grammars, form: str | None) -> float:
    started = time.perf_counter()
    constraint = None if form is None else grammars.follow(form)
    engine.submit(Request("first", [5, 7, 9], SamplingParams(max_tokens=1, seed=1), constraint=constraint))
    while engine.has_work:
        engine.step()
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="demo")
    for name, default in {"batch": 32, "tokens": 200, "rounds": 3, "threads": 2}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    model = resolve_model(asked.model)
    pages = asked.batch * (asked.tokens // 16 + 2) + 1
    config = EngineConfig(
        model=model, device="cpu", max_batch_size=asked.batch, num_pages=pages, threads=asked.threads
    )
    engine = Engine(config)
    started = time.perf_counter()
    tokenizer = Tokenizer(model)
    loaded = time.perf_counter()
    grammars = Grammars(tokenizer, engine.model_info.vocab_size, engine.model_info.eos_token_ids)
    print(f"vocabulary of {engine.model_info.vocab_size}: made ready in {time.perf_counter() - loaded:.2f} s")
    assert loaded > started
    form = grammar(ENDLESS)
    cold = [
        1e3 * first_token_s(engine, grammars, grammar({**ENDLESS, "minItems": number}))
        for number in range(1, 6)
    ]
    plain = [1e3 * first_token_s(engine, grammars, None) for _ in range(5)]
    print(f"first token: {median(plain):.2f} ms, with a cold grammar {median(cold):.2f} ms")
    free, bound = [], []
    run(engine, grammars, asked.batch, asked.tokens, form)
    for _ in range(asked.rounds):
        free.append(run(engine, grammars, asked.batch, asked.tokens, None))
        bound.append(run(engine, grammars, asked.batch, asked.tokens, form))
    print(
        f"batch {asked.batch}: {1 / median(free):.0f} tokens/s, under a schema {1 / median(bound):.0f}: "
        f"{median(free) / median(bound):.3f}"
    )


if __name__ == "__main__":
    main()
