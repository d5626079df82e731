"""Cancelling a job while everything else happens to it."""

import random
import threading
from collections import Counter

import pytest

from headrace.schemas.keys import tag_of

from ..support.waiting import wait_until
from .conftest import leaked_keys, log_of

pytestmark = [pytest.mark.serial, pytest.mark.timeout(240)]

RACES, WAVE = 1000, 50


def test_a_thousand_cancels_at_any_moment_leave_every_job_with_one_end(redis_url, redis, start_worker):
    worker = start_worker(redis_url, options={"max_batch_size": 16, "flush_s": 0.01})
    client, rng = worker.client, random.Random(0)
    prompt, pause = "Return a new string. " * 20, threading.Event()
    seen: Counter[tuple[str, str]] = Counter()
    for _ in range(RACES // WAVE):
        jobs = client.enqueue_many(
            {
                "prompt": prompt[: rng.randrange(5, 400)],
                "model": "demo",
                "max_tokens": rng.choice([1, 2, 10, 40, 150]),
                "job_class": rng.choice(["interactive", "standard", "batch"]),
                "ignore_eos": True,
                "delay_s": rng.choice([0, 0, 0, 0.02]),
                "stream": rng.random() < 0.5,
            }
            for _ in range(WAVE)
        )
        order = rng.sample(jobs, len(jobs))
        phases = {}
        for job in order:
            pause.wait(rng.choice([0, 0, 0.001, 0.01]))
            status = job.status()
            phases[job] = f"{status.state}, {'some' if status.offset else 'no'} tokens"
            job.cancel()
        wait_until(lambda jobs=jobs: all(job.status().state.terminal for job in jobs), 60)
        for job in jobs:
            chunks, ends = log_of(redis, job)
            status = job.status()
            assert [end.end for end in ends] == [status.state]
            assert status.state in {"succeeded", "cancelled"}
            assert ends[0].offset == status.offset == sum(len(chunk.token_ids) for chunk in chunks)
            assert redis.ttl(tag_of(job.id).job(job.id)) > 0
            seen[phases[job], status.state.value] += 1
    for (phase, outcome), count in sorted(seen.items()):
        print(f"cancelled while {phase:<24} {outcome:<10} {count:>5}")
    assert len({phase for phase, _ in seen}) >= 4

    def idle() -> bool:
        (one,) = client.workers()
        return one.running == one.waiting == 0 and one.pages_free == one.pages_total

    wait_until(idle)
    assert worker.events("engine_died") == []
    assert leaked_keys(redis) == []
