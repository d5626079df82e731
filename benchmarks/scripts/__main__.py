"""What each script costs Redis, with little and with much of what tenants and a fleet can make large.

    python -m benchmarks.scripts [--counts 10 1000 100000] [--tokens 10 32000] [--bytes 1000 4000000]

Queues with so many of everything; jobs with so many tokens in their logs, one a chunk; jobs, results and
webhooks of so many bytes. Figures are microseconds of CPU that a call takes Redis, medians: they bear other
work on the machine, and count what reads the command and writes the reply.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

from redis import Redis

from headrace.local.embedded_redis import EmbeddedRedis
from headrace.schemas.redis.connection import connect

from ..machine import machine, save
from ..tables import scripts_table
from .crowd import Crowd
from .large import LargeJobs, LongLog
from .measuring import measure, microseconds

Costs = dict[str, dict[str, float]]


def costs(redis: Redis, made: Callable[[Redis, int], Crowd | LongLog | LargeJobs], sizes: list[int]) -> Costs:
    """Microseconds of each call, by size."""
    return {str(size): measure(redis, made(redis, size).calls(), microseconds(redis)) for size in sizes}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--counts", type=int, nargs="+", default=[10, 1000, 100_000])
    parser.add_argument("--tokens", type=int, nargs="+", default=[10, 32_000])
    parser.add_argument("--bytes", type=int, nargs="+", default=[1000, 4_000_000])
    parser.add_argument("--json", type=Path, help="a file, or a folder to name it in")
    options = parser.parse_args()
    with EmbeddedRedis() as server, connect(server.url) as redis:
        redis.config_set("appendonly", "no")  # its rewrites would come into what is measured
        facts: dict[str, object] = {
            "benchmark": "scripts",
            "machine": machine(),
            "number of everything": costs(redis, Crowd, options.counts),
            "tokens in the log": costs(redis, LongLog, options.tokens),
            "bytes carried": costs(redis, LargeJobs, options.bytes),
        }
    if options.json:
        save(facts, options.json, "scripts")
    print(scripts_table(facts))


if __name__ == "__main__":
    main()
