"""A noisy tenant: what ten times the others' load does to their time to first token.

    python -m benchmarks.fairness [--seconds 15] [--json FILE]

Three tenants send short jobs at a steady pace, first alone, then beside a fourth that sends ten times as much
as all of them; both on one worker with the built-in model, both in one run, alternating.
"""

import argparse
import json
import random
import statistics
import tempfile
import threading
import time
from pathlib import Path

from headrace import Client, JobHandle
from headrace.local.stack import stack

from .machine import machine

QUIET = ("ada", "grace", "linus")
EVERY_S = 0.3
"""Between two jobs of one quiet tenant, on average."""

JOB = {"model": "demo", "max_tokens": 32, "ignore_eos": True}


def send(client: Client, tenant: str, every_s: float, until: float, sent: list[JobHandle], seed: int) -> None:
    rng = random.Random(seed)
    while time.monotonic() < until:
        sent.append(client.enqueue(f"Return item {rng.random()}", tenant=tenant, **JOB))
        time.sleep(rng.expovariate(1 / every_s))


def first_tokens_s(client: Client, seconds: float, *, noisy: bool) -> tuple[list[float], int]:
    """Times to first token of the quiet tenants' jobs, and how many jobs the noisy one sent."""
    until = time.monotonic() + seconds
    quiet: list[JobHandle] = []
    noise: list[JobHandle] = []
    senders = [(name, EVERY_S, quiet) for name in QUIET]
    if noisy:
        senders += [("noisy", EVERY_S / (10 * len(QUIET)), noise)]
    threads = [
        threading.Thread(target=send, args=(client, name, every_s, until, into, seed))
        for seed, (name, every_s, into) in enumerate(senders)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    times = [job.result(timeout_s=300).timings.first_token_s or 0.0 for job in quiet]
    for job in noise:
        job.cancel()
    for job in noise:
        while not job.status().state.terminal:
            time.sleep(0.05)
    return times, len(noise)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=15)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--batch", type=int, default=64, help="jobs that the worker runs at once")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    alone: list[float] = []
    beside: list[float] = []
    sent = 0
    with tempfile.TemporaryDirectory() as root:
        arguments = ["--model", "demo", "--device", "cpu", "--threads", "1"]
        arguments += ["--max-batch-size", str(options.batch)]
        with stack(Path(root), worker_args=arguments) as running, Client(running.redis_url) as client:
            running.wait_ready(client)
            first_tokens_s(client, 2, noisy=True)
            for _ in range(options.rounds):
                alone += first_tokens_s(client, options.seconds, noisy=False)[0]
                times, noise = first_tokens_s(client, options.seconds, noisy=True)
                beside += times
                sent += noise
    print(f"noisy tenant, {machine()}")
    print(f"  quiet tenants: {len(alone)} jobs alone, {len(beside)} beside {sent} of the noisy one")
    rows = {}
    for name, pick in (("median", statistics.median), ("p95", lambda v: statistics.quantiles(v, n=20)[-1])):
        rows[name] = pick(alone), pick(beside)
        print(
            f"  first token, {name:<7} alone {1000 * rows[name][0]:7.1f} ms   "
            f"beside the noisy one {1000 * rows[name][1]:7.1f} ms   {rows[name][1] / rows[name][0]:.2f} times"
        )
    if options.json:
        facts = {"benchmark": "fairness", "machine": machine(), "first_token_s": rows}
        options.json.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
