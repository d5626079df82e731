"""What a long queue costs: Redis memory of a queued job, and the time to claim one, from 100 to 100,000.

python -m benchmarks.depth [--most 100000] [--json FILE]
"""

import argparse
import json
import statistics
import time
from pathlib import Path

from headrace.local.embedded_redis import EmbeddedRedis
from headrace.schemas.ids import new_job_id
from headrace.schemas.job import Job
from headrace.schemas.keys import Tag
from headrace.schemas.redis.connection import connect
from headrace.schemas.scripts import ClaimRequest, claim, enqueue, run, run_many
from headrace.schemas.settings.queue import QueueSettings

from .machine import machine

TAG, BATCH = Tag("bench"), 1000
CLAIMS = 400


def fill(redis, count: int) -> None:
    job = Job.make(model="bench", prompt="What does str.split do when no separator is given?", max_tokens=64)
    for start in range(0, count, BATCH):
        size = min(BATCH, count - start)
        calls = [enqueue(TAG, new_job_id("bench"), job, QueueSettings()) for _ in range(size)]
        run_many(redis, calls)


def claim_us(redis) -> float:
    """Median microseconds of Redis's own time for a claim of one job, in batches of ten."""
    request = ClaimRequest("w", "n", 60_000, 10**6, 1)
    each = []
    for _ in range(CLAIMS // 10):
        redis.config_resetstat()
        for _ in range(10):
            assert len(run(redis, claim(TAG, request)).jobs) == 1
        each.append(redis.info("commandstats")["cmdstat_evalsha"]["usec_per_call"])
    return statistics.median(each)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--most", type=int, default=100_000)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    print(f"queue depth, {machine()}")
    rows = []
    with EmbeddedRedis() as server, connect(server.url) as redis:
        depth = 100 + CLAIMS
        fill(redis, depth)
        claim_us(redis)
        fill(redis, CLAIMS)
        size = depth
        while size <= options.most + CLAIMS:
            before, had = redis.info("memory")["used_memory"], redis.xlen(TAG.lane("standard", "default"))
            if size > depth:
                started = time.perf_counter()
                fill(redis, size - depth)
                rate = (size - depth) / (time.perf_counter() - started)
                grown = redis.xlen(TAG.lane("standard", "default")) - had
                memory = (redis.info("memory")["used_memory"] - before) / grown
            else:
                rate = memory = float("nan")
            took = claim_us(redis)
            fill(redis, CLAIMS)
            rows.append(
                {"queued": size - CLAIMS, "claim_us": took, "bytes_a_job": memory, "enqueued_per_s": rate}
            )
            depth, size = size, (size - CLAIMS) * 10 + CLAIMS
    print(f"  {'queued':>8} {'claim of one':>14} {'against 100':>12} {'Redis memory a job':>20}")
    for row in rows:
        ratio = row["claim_us"] / rows[0]["claim_us"]
        print(
            f"  {row['queued']:>8} {row['claim_us']:>11.0f} µs {ratio:>11.2f}x"
            f" {row['bytes_a_job']:>14.0f} bytes"
        )
    if options.json:
        facts = {"benchmark": "depth", "machine": machine(), "rows": rows}
        options.json.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
