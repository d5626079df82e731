"""The whole service (Redis, host, engine process, client) against the bare engine, in the same run.

    python -m benchmarks.service [--model S] [--requests 128] [--threads 2] [--rounds 3] [--json FILE]

Both run the same requests, all at once, in turn: the engine in this process, the service in its own. Beside
the ratio stands what a token costs Redis: commands (those inside scripts counted), calls of scripts, bytes.
"""

import argparse
import shutil
import statistics
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import torch
from redis import Redis

from headrace import Client
from headrace.engine import Engine, EngineConfig, Request, SamplingParams
from headrace.local.stack import stack
from headrace.schemas.redis.connection import connect
from headrace.workers.models import resolve_model

from .machine import machine, save
from .tables import service_table
from .workload import SHAPES, Item, Shape, save_model, workload


def save_served_model(shape: Shape, folder: Path) -> None:
    """Write a model with the built-in one's tokenizer: a worker wants one."""
    save_model(shape, folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(Path(resolve_model("demo")) / name, folder)


def worker_args(folder: Path, threads: int) -> list[str]:
    """Of a worker that serves it as "bench"."""
    return [
        *("--model", str(folder), "--served-name", "bench", "--device", "cpu"),
        *("--threads", str(threads), "--no-prefix-cache"),
    ]


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


def costs(redis: Redis) -> dict[str, int]:
    """Redis's counters since its start."""
    info = redis.info("everything")
    return {
        "commands": info["total_commands_processed"],
        "scripts": info.get("cmdstat_evalsha", {}).get("calls", 0),
        "bytes_in": info["total_net_input_bytes"],
        "bytes_out": info["total_net_output_bytes"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=SHAPES, default="S")
    parser.add_argument("--requests", type=int, default=128)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="a file, or a folder to name it in")
    options = parser.parse_args()
    shape = SHAPES[options.model]
    items = workload(options.requests, shape.vocab)
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root) / "model"
        save_served_model(shape, folder)
        engine = Engine(EngineConfig(model=str(folder), threads=options.threads, prefix_cache=False))
        bare, served, spent = [], [], []
        with (
            stack(Path(root) / "stack", worker_args=worker_args(folder, options.threads)) as running,
            Client(running.redis_url) as client,
            connect(running.redis_url) as redis,
        ):
            running.wait_ready(client)
            for round_ in range(options.rounds + 1):
                alone = bare_engine(engine, items)
                before = costs(redis)
                whole = service(client, items)
                after = costs(redis)
                if round_:
                    bare.append(alone)
                    served.append(whole)
                    spent.append({name: after[name] - before[name] for name in after})
    facts = {
        "benchmark": "service",
        "machine": machine(),
        "model": asdict(shape),
        "requests": options.requests,
        "rounds": options.rounds,
        "output_tokens": sum(item.output_tokens for item in items),
        "seconds": {"bare engine": bare, "whole service": served},
        "redis": {name: statistics.median(each[name] for each in spent) for name in spent[0]},
    }
    if options.json:
        save(facts, options.json, f"service-{shape.name}")
    print(service_table(facts))


if __name__ == "__main__":
    main()
