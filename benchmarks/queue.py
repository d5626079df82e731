"""The whole service against its parts: what the queue costs, and how fast jobs go in.

    python -m benchmarks.queue [--requests 128] [--threads 2] [--runs 3] [--json FILE]

- output tokens a second through Redis, worker and client, against the bare engine in this process;
- enqueue to first token seen by the client, against the engine's own submit to first token;
- jobs enqueued a second, against Celery's `.delay()` to the same Redis.
"""

import argparse
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from headrace import Client
from headrace.engine import Engine, EngineConfig, Request, SamplingParams
from headrace.stack import stack
from headrace.workers.models import resolve_model

from .machine import machine
from .workload import Item, S, save_model, workload

ENQUEUED = 2000
FIRST_TOKENS = 30


def bare_engine(engine: Engine, items: list[Item]) -> float:
    """Seconds for all requests."""
    started = time.perf_counter()
    for number, item in enumerate(items):
        params = SamplingParams(max_tokens=item.output_tokens, temperature=0.0, ignore_eos=True)
        engine.submit(Request(str(number), list(item.prompt_ids), params))
    while engine.has_work:
        engine.step()
    return time.perf_counter() - started


def service(client: Client, items: list[Item]) -> float:
    """Seconds from the first enqueue to the last result."""
    started = time.perf_counter()
    jobs = client.enqueue_many(
        {
            "prompt_token_ids": item.prompt_ids,
            "model": "bench",
            "max_tokens": item.output_tokens,
            "temperature": 0.0,
            "ignore_eos": True,
        }
        for item in items
    )
    for job in jobs:
        job.result(timeout_s=600)
    return time.perf_counter() - started


def engine_first_token(engine: Engine, item: Item) -> float:
    """Seconds from submit to the first token of a request alone."""
    params = SamplingParams(max_tokens=1, temperature=0.0, ignore_eos=True)
    started = time.perf_counter()
    engine.submit(Request("first", list(item.prompt_ids), params))
    while engine.has_work:
        engine.step()
    return time.perf_counter() - started


def service_first_token(client: Client, item: Item) -> float:
    """Seconds from enqueue to the first chunk in the client."""
    started = time.perf_counter()
    job = client.enqueue(
        prompt_token_ids=item.prompt_ids, model="bench", max_tokens=1, temperature=0.0, ignore_eos=True
    )
    next(iter(job.stream()))
    return time.perf_counter() - started


def rate(enqueue: Callable[[int], object]) -> float:
    """Calls a second."""
    started = time.perf_counter()
    for number in range(ENQUEUED):
        enqueue(number)
    return ENQUEUED / (time.perf_counter() - started)


def enqueue_rates(url: str) -> dict[str, float]:
    """Jobs a second that nobody runs: headrace one by one and in bulk, and Celery's `.delay()`."""
    from celery import Celery

    app = Celery(broker=url, set_as_current=False)
    app.conf.update(task_default_queue="bench-celery", task_ignore_result=True)

    @app.task(name="bench.noop")
    def noop(prompt: str, max_tokens: int) -> None:
        """Never run."""

    with Client(url, check_model=False) as client:
        fields = {"model": "unserved", "max_tokens": 64}
        rates = {"Celery .delay()": rate(lambda number: noop.delay(f"prompt {number}", 64))}
        rates["headrace enqueue"] = rate(lambda number: client.enqueue(f"prompt {number}", **fields))
        started = time.perf_counter()
        client.enqueue_many({"prompt": f"prompt {number}", **fields} for number in range(ENQUEUED))
        rates["headrace enqueue_many"] = ENQUEUED / (time.perf_counter() - started)
    return rates


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=128)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    items = workload(options.requests, S.vocab)
    tokens = sum(item.output_tokens for item in items)
    print(f"model {S.name} (bf16), {options.requests} requests at once, {machine()}")
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root) / "model"
        save_model(S, folder)
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(Path(resolve_model("demo")) / name, folder)
        engine = Engine(EngineConfig(model=str(folder), threads=options.threads, prefix_cache=False))
        worker_args = [
            *("--model", str(folder), "--served-name", "bench", "--device", "cpu"),
            *("--threads", str(options.threads), "--no-prefix-cache"),
        ]
        with (
            stack(Path(root) / "stack", worker_args=worker_args) as running,
            Client(running.redis_url) as client,
        ):
            running.wait_ready(client)
            bare, served, ours, theirs = [], [], [], []
            for round_ in range(options.runs + 1):
                times = bare_engine(engine, items), service(client, items)
                if round_:
                    bare.append(times[0])
                    served.append(times[1])
            for item in items[:FIRST_TOKENS]:
                ours.append(engine_first_token(engine, item))
                theirs.append(service_first_token(client, item))
            rates = enqueue_rates(running.redis_url)
    bare_rate, served_rate = tokens / statistics.median(bare), tokens / statistics.median(served)
    print(f"  bare engine            {bare_rate:8.0f} output tokens/s")
    print(
        f"  whole service          {served_rate:8.0f} output tokens/s   {served_rate / bare_rate:.1%} of it"
    )
    own_ms, seen_ms = 1000 * statistics.median(ours), 1000 * statistics.median(theirs)
    print(f"  first token, engine    {own_ms:8.1f} ms")
    print(f"  first token, client    {seen_ms:8.1f} ms                {seen_ms - own_ms:+.1f} ms")
    for name, value in rates.items():
        ratio = value / rates["Celery .delay()"]
        print(f"  {name:<22} {value:8.0f} jobs/s            {ratio:.2f} times Celery's")
    if options.json:
        facts = {
            "benchmark": "queue",
            "machine": machine(),
            "options": vars(options),
            "tokens_per_s": {"bare engine": bare_rate, "whole service": served_rate},
            "first_token_ms": {"engine": own_ms, "client": seen_ms},
            "enqueued_per_s": rates,
        }
        options.json.write_text(json.dumps(facts, indent=1, default=str) + "\n")


if __name__ == "__main__":
    main()
