"""How soon a stream continues after its only engine process was killed, without and with a spare.

    python -m benchmarks.recovery [--model demo] [--rounds 6] [--threads 1] [--json FILE]

Two workers with one engine process each take turns; one of them keeps a spare. Each round kills the engine
process (SIGKILL) in the middle of a stream. The host tells the queue at once, so no lease is waited for; the
time until then is a column of its own.
"""

import argparse
import json
import os
import signal
import statistics
import tempfile
import time
from datetime import datetime
from pathlib import Path

import psutil

from headrace import Client
from headrace.local.stack import Stack, stack

from .machine import machine, save

PARTS = ("the queue knows", "the engine restarts", "it is ready", "the next token")
"""The moments after the kill, in order."""

TOKENS = 400


def events(running: Stack, name: str) -> list[dict]:
    """The worker's log lines of one event."""
    lines = [line for line in running.log.read_text().splitlines() if line.startswith("{")]
    return [event for event in map(json.loads, lines) if event["event"] == name]


def until_logged(running: Stack, name: str, count: int) -> dict:
    """Wait for so many lines of an event; the last of them."""
    while len(found := events(running, name)) < count:
        running.check()
        time.sleep(0.05)
    return found[count - 1]


def memory(pid: int) -> dict[str, float]:
    """MiB of a process and its children: resident, their share of what is shared, and what only they have."""
    process = psutil.Process(pid)
    infos = [each.memory_full_info() for each in (process, *process.children())]
    return {name: round(sum(getattr(info, name) for info in infos) / 2**20) for name in ("rss", "pss", "uss")}


def kill_once(running: Stack, client: Client, model: str, round_: int) -> list[float]:
    """Seconds from the kill to each of `PARTS`."""
    (worker,) = client.workers()
    job = client.enqueue("A dictionary is", model=model, max_tokens=TOKENS, ignore_eos=True, seed=round_)
    chunks = job.stream()
    next(chunks)
    os.kill(worker.pid, signal.SIGKILL)
    killed_at = time.time()
    until_logged(running, "jobs_recovered", round_)
    token_at = 0.0
    for chunk in chunks:
        # What was published before the kill may be read after it.
        if chunk.token_ids and events(running, "engine_ready")[round_:]:
            token_at = time.time()
            break
    job.cancel()
    counts = {"jobs_recovered": round_, "engine_started": round_ + 1, "engine_ready": round_ + 1}
    logged = [until_logged(running, name, count)["timestamp"] for name, count in counts.items()]
    moments = [datetime.fromisoformat(moment).timestamp() for moment in logged]
    return [round(moment - killed_at, 4) for moment in (*moments, token_at)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="demo")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="a file, or a folder to name it in")
    options = parser.parse_args()
    flags = ("--model", options.model, "--device", "cpu", "--threads", str(options.threads))
    seconds: dict[str, list[list[float]]] = {"without": [], "with a spare": []}
    with (
        tempfile.TemporaryDirectory() as root,
        stack(Path(root) / "without", worker_args=[*flags, "--no-spare-engine"]) as without,
        stack(Path(root) / "with", worker_args=[*flags, "--spare-engine"]) as spare,
        Client(without.redis_url) as asks_without,
        Client(spare.redis_url) as asks_with,
    ):
        without.wait_ready(asks_without)
        spare.wait_ready(asks_with)
        for round_ in range(1, options.rounds + 1):
            idle = memory(until_logged(spare, "spare_ready", round_)["pid"])
            seconds["without"].append(kill_once(without, asks_without, options.model, round_))
            seconds["with a spare"].append(kill_once(spare, asks_with, options.model, round_))
    facts = {
        "benchmark": "recovery",
        "machine": machine(),
        "model": options.model,
        "rounds": options.rounds,
        "moments": PARTS,
        "seconds": seconds,
        "spare_mib": idle,
    }
    if options.json:
        save(facts, options.json, "recovery")
    print(f"median of {options.rounds} kills, in turn; seconds from the kill until")
    print("| |", " | ".join(PARTS), "|")
    print("| --- |" + " ---: |" * len(PARTS))
    ends = {}
    for arm, runs in seconds.items():
        medians = [statistics.median(each) for each in zip(*runs, strict=True)]
        ends[arm] = medians[-1]
        print(f"| {arm} |", " | ".join(f"{each:.2f}" for each in medians), "|")
    print(f"with a spare, it took {ends['with a spare'] / ends['without']:.2f} times as long")
    print(
        f"the spare's memory: {idle['rss']} MiB, {idle['uss']} MiB of them its own; "
        f"{idle['pss']} MiB with its share of what others use too"
    )


if __name__ == "__main__":
    main()
