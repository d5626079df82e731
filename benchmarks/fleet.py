"""What a few large jobs leave of a fleet: KV pages in use with them and without, and how long they wait.

    python -m benchmarks.fleet [--workers 8] [--pages 400] [--ticks 1500] [--json FILE]

The workers are simulated, a tick a token; Redis and the scripts are real, and more waits than fits.
A large job takes as many pages as `--large` says, as a share of a worker's.
"""

import argparse
import json
import random
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, median

from redis import Redis

from headrace.local.embedded_redis import EmbeddedRedis
from headrace.schemas.events import End, JobState, Output
from headrace.schemas.ids import new_job_id
from headrace.schemas.job import Job
from headrace.schemas.keys import Tag
from headrace.schemas.redis.connection import connect
from headrace.schemas.scripts import ClaimRequest, Segment, claim, enqueue, finish, run, run_many
from headrace.schemas.settings.queue import QueueSettings
from headrace.schemas.wire import WireJob

from .machine import machine

TAG, PAGE = Tag("bench"), 16
PROMPT, SMALL_TOKENS = 16, (32, 112)
END = End(offset=0, end=JobState.SUCCEEDED, finish_reason="length")
OUTPUT = Output(finish_reason="length")


@dataclass
class Worker:
    """Jobs by id: their fence, pages and the tick at which they end."""

    name: str
    pages: int
    jobs: dict[str, tuple[str, int, int]] = field(default_factory=dict)

    @property
    def used(self) -> int:
        return sum(pages for _, pages, _ in self.jobs.values())

    def tick(self, redis: Redis, now: int, started: dict[str, int]) -> None:
        ended = [(job_id, fence) for job_id, (fence, _, until) in self.jobs.items() if until <= now]
        run_many(redis, [finish(TAG, Segment(*each, 0, 0, ""), END, OUTPUT) for each in ended])
        for job_id, _ in ended:
            del self.jobs[job_id]
        budget = (self.pages - self.used) * PAGE
        if budget < 1:
            return
        capacity = self.pages * PAGE
        request = ClaimRequest(self.name, "n", 60_000, budget, 1000, PAGE, capacity, context_tokens=capacity)
        for taken in run(redis, claim(TAG, request)).jobs:
            job = WireJob.from_wire(taken.spec)
            pages = -(-(PROMPT + job.max_tokens) // PAGE)
            ticks = min(job.max_tokens, SMALL_TOKENS[1])
            self.jobs[taken.job_id] = taken.fence, pages, now + ticks
            started[taken.job_id] = now


@dataclass
class Fleet:
    """A share of large jobs on some workers; `late` says by how many ticks large jobs started late."""

    redis: Redis
    workers: list[Worker]
    large_share: float
    large_tokens: int
    rng: random.Random = field(default_factory=lambda: random.Random(1))
    started: dict[str, int] = field(default_factory=dict)
    order: list[tuple[str, bool]] = field(default_factory=list)

    def fill(self, count: int) -> None:
        calls = []
        for _ in range(count):
            large = self.rng.random() < self.large_share
            tokens = self.large_tokens if large else self.rng.randrange(*SMALL_TOKENS)
            job_id = new_job_id("bench")
            self.order.append((job_id, large))
            job = Job.make(model="bench", prompt_token_ids=[1] * PROMPT, max_tokens=tokens)
            calls.append(enqueue(TAG, job_id, job, QueueSettings()))
        run_many(self.redis, calls)

    def run(self, ticks: int) -> float:
        """The share of all pages in use on average, once the fleet is full."""
        used = []
        total = sum(worker.pages for worker in self.workers)
        for now in range(ticks):
            waiting = len(self.order) - len(self.started)
            if waiting < 1000:
                self.fill(1000)
            for worker in self.rng.sample(self.workers, len(self.workers)):
                worker.tick(self.redis, now, self.started)
            if now >= ticks // 5:
                used.append(sum(worker.used for worker in self.workers) / total)
        return fmean(used)

    def late(self, ticks: int) -> list[int]:
        """Ticks by which each large job started later than the jobs around it."""
        turn, late = 0, []
        for job_id, large in self.order:
            if large:
                late.append(self.started.get(job_id, ticks) - turn)
            elif job_id in self.started:
                turn = max(turn, self.started[job_id])
            else:
                break
        return late


def measure(redis: Redis, options: argparse.Namespace, share: float) -> tuple[float, list[int]]:
    """Pages in use, and how long large jobs waited."""
    redis.flushall()
    workers = [Worker(f"w{number}", options.pages) for number in range(options.workers)]
    fleet = Fleet(redis, workers, share, round(options.large * options.pages) * PAGE - PROMPT)
    return fleet.run(options.ticks), fleet.late(options.ticks)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--pages", type=int, default=400, help="of each worker")
    parser.add_argument("--ticks", type=int, default=1500)
    parser.add_argument("--share", type=float, default=0.01, help="of the jobs are large")
    parser.add_argument("--large", type=float, default=0.25, help="of a worker's pages are a large job's")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with EmbeddedRedis() as server, connect(server.url) as redis:
        without, _ = measure(redis, options, 0.0)
        with_large, late = measure(redis, options, options.share)
    print(f"a fleet of {options.workers} workers of {options.pages} pages, {machine()}")
    print(
        f"  pages in use: {without:.1%} without large jobs, {with_large:.1%} with {options.share:.0%} of them"
    )
    print(f"  {len(late)} large jobs: {median(late):.0f} ticks late in the median, {max(late)} at most")
    if options.json:
        facts = {"benchmark": "fleet", "machine": machine(), "without": without, "with": with_large}
        options.json.write_text(json.dumps(facts | {"late_ticks": late}, indent=1) + "\n")


if __name__ == "__main__":
    main()
