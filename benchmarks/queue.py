"""What the way through the queue takes: to a first token, and to put jobs in.

    python -m benchmarks.queue [--threads 2] [--rounds 3] [--json FILE]

- enqueue to first token seen by the client, against the engine's own submit to first token, one at a time;
- jobs enqueued a second, against Celery's `.delay()` to the same Redis.

What it leaves of the engine's throughput is `benchmarks.service`.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch

from headrace import Client
from headrace.engine import Engine, EngineConfig, Request, SamplingParams
from headrace.local.stack import stack

from .machine import machine, save
from .service import save_served_model, worker_args
from .tables import queue_table
from .workload import Item, S, workload


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


def rate(enqueue: Callable[[int], object], calls: int) -> float:
    """Calls a second."""
    started = time.perf_counter()
    for number in range(calls):
        enqueue(number)
    return calls / (time.perf_counter() - started)


def enqueue_rates(url: str, jobs: int) -> dict[str, float]:
    """Jobs a second that nobody runs: headrace one by one and in bulk, and Celery's `.delay()`."""
    from celery import Celery

    app = Celery(broker=url, set_as_current=False)
    app.conf.update(task_default_queue="bench-celery", task_ignore_result=True)

    @app.task(name="bench.noop")
    def noop(prompt: str, max_tokens: int) -> None:
        """Never run."""

    with Client(url, check_model=False) as client:
        fields = {"model": "unserved", "max_tokens": 64}
        rates = {"Celery .delay()": rate(lambda number: noop.delay(f"prompt {number}", 64), jobs)}
        rates["headrace enqueue"] = rate(lambda number: client.enqueue(f"prompt {number}", **fields), jobs)
        started = time.perf_counter()
        client.enqueue_many({"prompt": f"prompt {number}", **fields} for number in range(jobs))
        rates["headrace enqueue_many"] = jobs / (time.perf_counter() - started)
    return rates


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--first-tokens", type=int, default=30, help="requests, in each round")
    parser.add_argument("--enqueued", type=int, default=2000, help="jobs, in each round")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="a file, or a folder to name it in")
    options = parser.parse_args()
    items = workload(options.first_tokens, S.vocab)
    first_token_s: dict[str, list[float]] = {"bare engine": [], "whole service": []}
    enqueued_per_s: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root) / "model"
        save_served_model(S, folder)
        engine = Engine(EngineConfig(model=str(folder), threads=options.threads, prefix_cache=False))
        with (
            stack(Path(root) / "stack", worker_args=worker_args(folder, options.threads)) as running,
            Client(running.redis_url) as client,
        ):
            running.wait_ready(client)
            for round_ in range(options.rounds + 1):
                for item in items:
                    times = engine_first_token(engine, item), service_first_token(client, item)
                    if round_:
                        for found, took in zip(first_token_s.values(), times, strict=True):
                            found.append(took)
                rates = enqueue_rates(running.redis_url, options.enqueued)
                if round_:
                    for name, value in rates.items():
                        enqueued_per_s.setdefault(name, []).append(value)
    facts: dict[str, object] = {
        "benchmark": "queue",
        "machine": machine(),
        "model": asdict(S),
        "rounds": options.rounds,
        "first_token_s": first_token_s,
        "enqueued_per_s": enqueued_per_s,
    }
    if options.json:
        save(facts, options.json, "queue")
    print(queue_table(facts))


if __name__ == "__main__":
    main()
