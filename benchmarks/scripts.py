"""What each script costs Redis with little and with much of all that tenants and a fleet can make large.

    python -m benchmarks.scripts [--few 10] [--most 100000] [--json FILE]

Two queues, one with `--few` and one with `--most` of each: jobs that wait in one lane, tenants that wait
with one job, running jobs, workers, delayed jobs, jobs that have expired in the queue, cancelled ones, dead
letters, webhook deliveries. Figures are Redis's own microseconds a call, medians. Upkeep, and a claim that
meets expired or cancelled jobs, deal with several a call, and with no more however many there are.
"""

import argparse
import json
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from statistics import median

from redis import Redis

from headrace.local.embedded_redis import EmbeddedRedis
from headrace.schemas.events import End, JobState, Output
from headrace.schemas.job import Job, JobClass
from headrace.schemas.keys import Tag, new_job_id
from headrace.schemas.redis.connection import connect
from headrace.schemas.scripts import (
    Call,
    ClaimedJob,
    ClaimRequest,
    ReleaseReason,
    Segment,
    accept_delivery,
    advance,
    cancel,
    claim,
    claim_deliveries,
    drain,
    drop_dead,
    drop_entry,
    enqueue,
    finish,
    heartbeat,
    recover,
    release,
    replay_delivery,
    requeue_dead,
    run,
    run_many,
    settle_delivery,
    trial,
    upkeep,
)
from headrace.schemas.settings.queue import QueueSettings
from headrace.schemas.webhooks.delivery import DeliveryAttempt, DeliveryState, delivery_id

from .machine import machine

TAG, SETTINGS, BATCH, CALLS, SPARE = Tag("bench"), QueueSettings(), 1000, 20, 100
END = End(offset=0, end=JobState.SUCCEEDED, finish_reason="stop")
DELIVERY = {"job_id": "j", "event": "job.succeeded", "body": "{}", "secret": ""}
SEVERAL = {"upkeep", "claim past expired jobs", "claim past cancelled tenants"}
"""Those whose call deals with several things at once, up to a bound."""


def added(**fields: object) -> Call[str]:
    job = Job.make(**{"model": "bench", "prompt_token_ids": [1] * 16, "max_tokens": 16, **fields})
    return enqueue(TAG, new_job_id("bench"), job, SETTINGS)


def request(slots: int = 1, **changes: object) -> ClaimRequest:
    given = {"worker": "w", "nonce": "n", "lease_ms": 600_000, "budget_tokens": 10**9, "slots": slots}
    return ClaimRequest(**{**given, "classes": (JobClass.STANDARD,), **changes})


class World:
    """A queue with `count` of everything, and calls to make there."""

    def __init__(self, redis: Redis, count: int) -> None:
        self.redis, self.count = redis, count
        redis.flushall()
        self._many(lambda i: added(tenant=f"running{i}"))
        for start in range(0, count, BATCH):
            run(redis, claim(TAG, request(min(BATCH, count - start), worker=f"other{start}")))
        for _ in range(SPARE):
            run(redis, added())
        self._many(lambda _: added())
        self._many(lambda i: added(tenant=f"t{i}"))
        self._many(lambda _: added(delay_s=1e6))
        self._many(lambda i: heartbeat(TAG, f"worker{i}", {"capacity_tokens": 1}))
        self._dead()
        self._deliveries()

    def _many(self, call: Callable[[int], Call[object]]) -> list[object]:
        answers: list[object] = []
        for start in range(0, self.count, BATCH):
            answers += run_many(self.redis, [call(i) for i in range(start, min(start + BATCH, self.count))])
        return answers

    def _dead(self) -> None:
        pipe = self.redis.pipeline(transaction=False)
        for _ in range(self.count):
            job_id = new_job_id("bench")
            fields = {"state": "failed", "class": "standard", "tenant": "d", "spec": "{}", "enqueued_ms": 1}
            pipe.hset(TAG.job(job_id), mapping=fields)
            pipe.xadd(TAG.dead, {"job": job_id, "cause": "crashed", "at_ms": 1})
        pipe.execute()

    def _deliveries(self) -> None:
        for entry in self.entries(self.count):
            run(self.redis, self.accepted(entry))

    def entries(self, count: int) -> list[str]:
        """New entries of the outbox."""
        pipe = self.redis.pipeline(transaction=False)
        for _ in range(count):
            pipe.xadd(TAG.outbox, {"job": "j", "event": "job.succeeded", "at_ms": 1})
        return [entry.decode() for entry in pipe.execute()]

    def accepted(self, entry: str) -> Call[bool]:
        url = f"https://host{hash(entry) % self.count}.example.com/"
        return accept_delivery(
            TAG, entry, url=url, tenant=f"t{hash(entry) % 97}", retention_s=1e5, **DELIVERY
        )

    def mine(self, count: int = CALLS) -> list[ClaimedJob]:
        return run(self.redis, claim(TAG, request(count))).jobs

    def letters(self) -> Iterator[str]:
        return (entry.decode() for entry, _ in self.redis.xrange(TAG.dead, count=CALLS))

    def calls(self) -> Iterator[tuple[str, list[Call[object]]]]:
        """Each script's name and calls to make, which are made before the next is asked for."""
        yield "enqueue", [added() for _ in range(CALLS)]
        yield "claim", [claim(TAG, request()) for _ in range(CALLS)]
        jobs = self.mine()
        chunks = [
            Segment(job.job_id, job.fence, 0, 1, '{"offset":1,"text":"t","token_ids":[1]}') for job in jobs
        ]
        yield "advance", [advance(TAG, 600_000, [chunk]) for chunk in chunks]
        after = [Segment(job.job_id, job.fence, 1, 1, "") for job in jobs]
        yield "release", [release(TAG, each, ReleaseReason.DRAIN) for each in after[: CALLS // 2]]
        yield "finish", [finish(TAG, each, END, Output(finish_reason="stop")) for each in after[CALLS // 2 :]]
        waiting = [run(self.redis, added()) for _ in range(CALLS)]
        yield "cancel", [cancel(TAG, job_id) for job_id in waiting]
        for number in range(CALLS):
            run(self.redis, claim(TAG, request(worker=f"dies{number}")))
        yield "recover", [recover(TAG, f"dies{number}", SETTINGS, blamed=False) for number in range(CALLS)]
        yield "heartbeat", [heartbeat(TAG, "w", {"capacity_tokens": 1}) for _ in range(CALLS)]
        yield "drain", [drain(TAG, "w", 0) for _ in range(CALLS)]
        few = min(CALLS, self.count) // 2
        yield "requeue_dead", [requeue_dead(TAG, letter) for letter in islice(self.letters(), few)]
        yield "drop_dead", [drop_dead(TAG, letter) for letter in islice(self.letters(), few)]
        entries = self.entries(CALLS)
        yield "accept_delivery", [self.accepted(entry) for entry in entries]
        yield "drop_entry", [drop_entry(TAG, entry) for entry in self.entries(CALLS)]
        yield "trial", [trial(TAG, "w", 10_000, tuple(JobClass)) for _ in range(CALLS)]
        yield "claim_deliveries", [claim_deliveries(TAG, 1, 60, "n") for _ in range(few)]
        due = run(self.redis, claim_deliveries(TAG, 32, 60, "m")).due
        settled = [
            settle_delivery(each, DeliveryState.DELIVERED, DeliveryAttempt(status=200), 60) for each in due
        ]
        yield "settle_delivery", settled
        yield "replay_delivery", [replay_delivery(TAG, delivery_id("j", entry)) for entry in entries]
        yield "upkeep", [upkeep(TAG, SETTINGS) for _ in range(CALLS)]
        self._spoil()
        yield "claim past expired jobs", [claim(TAG, request(classes=(JobClass.BATCH,)))]
        urgent = claim(TAG, request(classes=(JobClass.INTERACTIVE,)))
        yield "claim past cancelled tenants", [urgent]

    def _spoil(self) -> None:
        """Jobs of one class that have expired, and tenants of another whose only job was cancelled."""
        for job_id in self._many(lambda _: added(job_class="batch", deadline_s=1e6)):
            self.redis.hset(TAG.job(str(job_id)), "deadline_ms", 1)
        ids = self._many(lambda i: added(job_class="interactive", tenant=f"gone{i}"))
        self._many(lambda i: cancel(TAG, str(ids[i])))

    def measure(self, cost: Callable[[dict[str, dict[str, float]]], float]) -> dict[str, float]:
        """What a call costs by script: the median of `cost` of Redis's statistics of commands."""
        found = {}
        for name, calls in self.calls():
            each = []
            for call in calls:
                self.redis.config_resetstat()
                run(self.redis, call)
                each.append(cost(self.redis.info("commandstats")))
            found[name] = median(each)
        return found


def microseconds(stats: dict[str, dict[str, float]]) -> float:
    """Redis's own time for scripts."""
    return sum(stats[name]["usec"] for name in ("cmdstat_evalsha", "cmdstat_eval") if name in stats)


def commands(stats: dict[str, dict[str, float]]) -> float:
    """Commands that scripts gave."""
    ours = ("cmdstat_eval", "cmdstat_config", "cmdstat_info")
    return sum(stat["calls"] for name, stat in stats.items() if not name.startswith(ours))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--few", type=int, default=10)
    parser.add_argument("--most", type=int, default=100_000)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with EmbeddedRedis() as server, connect(server.url) as redis:
        few = World(redis, options.few).measure(microseconds)
        most = World(redis, options.most).measure(microseconds)
    print(f"scripts, {machine()}")
    print(f"  {'microseconds a call':<30} {'with ' + str(options.few):>12} {'with ' + str(options.most):>12}")
    for name, took in most.items():
        bounded = "  of several a call, bounded" if name in SEVERAL else ""
        print(f"  {name:<30} {few[name]:>12.0f} {took:>12.0f} {took / few[name]:>7.2f} times{bounded}")
    if options.json:
        facts = {"benchmark": "scripts", "machine": machine(), "few": few, "most": most}
        options.json.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
