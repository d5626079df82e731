"""A queue with many of everything that tenants and a fleet can make many."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from typing import Any

from redis import Redis

from headrace.schemas.events import End, JobState, Output
from headrace.schemas.job import JobClass
from headrace.schemas.keys import BatchKeys
from headrace.schemas.routes import ModelRoute
from headrace.schemas.scripts import (
    Call,
    ReleaseReason,
    Segment,
    accept_delivery,
    advance,
    advance_batch,
    cancel,
    claim_batch,
    claim_deliveries,
    drain,
    drop_dead,
    drop_entry,
    end_batch,
    finish,
    heartbeat,
    pause,
    recover,
    release,
    replay_delivery,
    requeue_dead,
    resume,
    run,
    run_many,
    set_route,
    settle_delivery,
    trial,
    upkeep,
)
from headrace.schemas.webhooks.delivery import DeliveryAttempt, DeliveryState, delivery_id

from .queue import LEASE_MS, SETTINGS, TAG, Named, added, claimed, empty, taken
from .repeat import NUMBER, numbered_id, repeat

CALLS, SPARE, MANY = 20, 100, 200
END = End(offset=0, end=JobState.SUCCEEDED, finish_reason="stop")
DELIVERY = {"event": "job.succeeded", "body": "{}", "secret": "", "retention_s": 1e5}
WORKER = f"worker{NUMBER}"
BATCHES = BatchKeys()

SEVERAL = {
    *("upkeep", "recover many jobs", "resume"),
    *("claim past expired jobs", "claim past cancelled tenants", "claim past paused tenants"),
}
"""Those whose call deals with several things, and with no more than a bound."""


class Crowd:
    """A queue with `count` of everything, and calls to make there.

    That is: jobs that wait in one lane, tenants that wait with one job, jobs that run, delayed jobs, workers,
    models that these serve, dead letters, batches, webhook deliveries, each to a host of its own; and at the
    end jobs that have expired in the queue, tenants whose only job was cancelled, recovered jobs, suspects.
    """

    def __init__(self, redis: Redis, count: int) -> None:
        self.redis, self.count = redis, count
        empty(redis)
        self._many(*self._run("1"))
        self._many(*self._run("2", max_attempts=1), self._died("2", blamed=True))
        self._many(added(numbered_id("3")))
        run_many(redis, [added() for _ in range(SPARE)])
        self._many(added(numbered_id("4"), tenant=f"t{NUMBER}"))
        self._many(added(numbered_id("5"), delay_s=1e6))
        self._many(heartbeat(TAG, WORKER, {"capacity_tokens": 1, "fingerprint": NUMBER}))
        batch = f"t:{NUMBER}"
        self._many(
            ("HSET", BATCHES.batch("t", NUMBER), "status", "in_progress"), ("ZADD", BATCHES.active, 0, batch)
        )
        (entry,) = self.entries(1)
        accepted = self.accepted(entry, job_id=numbered_id("6"), tenant=f"t{NUMBER}")
        entry, delivery, _, *others = accepted.args
        self._many(replace(accepted, args=(entry, delivery, f"{NUMBER}.{NUMBER}", *others)))

    def _many(self, *steps: Call[Any] | tuple[str | int, ...]) -> None:
        repeat(self.redis, self.count, steps)

    def _run(
        self, kind: str, classes: tuple[JobClass] = (JobClass.STANDARD,), **fields: object
    ) -> tuple[Call[Any], Call[Any]]:
        """The steps by which a worker of its own comes to run a job."""
        job = added(numbered_id(kind), tenant="busy", job_class=classes[0], **fields)
        return job, claimed(worker=kind + WORKER, classes=classes)

    def _died(self, kind: str, *, blamed: bool) -> Call[Any]:
        return recover(TAG, kind + WORKER, SETTINGS, blamed=blamed)

    def entries(self, count: int) -> list[str]:
        """New entries of the outbox."""
        pipe = self.redis.pipeline(transaction=False)
        for _ in range(count):
            pipe.xadd(TAG.outbox, {"job": "j", "event": "job.succeeded", "at_ms": 1})
        return [entry.decode() for entry in pipe.execute()]

    def accepted(self, entry: str, job_id: str = "j", tenant: str = "t") -> Call[bool]:
        """Makes a delivery of the entry."""
        url = f"https://{tenant}.example.com/"
        return accept_delivery(TAG, entry, job_id=job_id, tenant=tenant, url=url, **DELIVERY)

    def letters(self) -> Iterator[str]:
        return (entry.decode() for entry, _ in self.redis.xrange(TAG.dead, count=CALLS))

    def calls(self) -> Named:
        """Each script by its name, and further ways to meet with many."""
        yield from self._jobs()
        yield from self._fleet()
        yield from self._deliveries()
        yield from self._batches()
        yield "upkeep", [upkeep(TAG, SETTINGS, LEASE_MS) for _ in range(CALLS)]
        yield from self._spoiled()
        yield from self._recovered()

    def _jobs(self) -> Named:
        yield "enqueue", [added() for _ in range(CALLS)]
        yield "claim", [claimed() for _ in range(CALLS)]
        jobs = taken(self.redis, CALLS)
        payload = '{"offset":1,"text":"t","token_ids":[1]}'
        chunks = [Segment(job.job_id, job.fence, 0, 1, payload) for job in jobs]
        yield "advance", [advance(TAG, LEASE_MS, [chunk]) for chunk in chunks]
        after = [Segment(job.job_id, job.fence, 1, 1, "") for job in jobs]
        yield "release", [release(TAG, each, ReleaseReason.DRAIN) for each in after[: CALLS // 2]]
        yield "finish", [finish(TAG, each, END, Output(finish_reason="stop")) for each in after[CALLS // 2 :]]
        waiting = run_many(self.redis, [added() for _ in range(CALLS)])
        yield "cancel", [cancel(TAG, job_id) for job_id in waiting]
        few = min(CALLS, self.count) // 2
        yield "requeue_dead", [requeue_dead(TAG, letter) for letter in islice(self.letters(), few)]
        yield "drop_dead", [drop_dead(TAG, letter) for letter in islice(self.letters(), few)]

    def _fleet(self) -> Named:
        for number in range(CALLS):
            taken(self.redis, worker=f"dies{number}")
        yield "recover", [recover(TAG, f"dies{number}", SETTINGS, blamed=False) for number in range(CALLS)]
        facts = {"capacity_tokens": 1, "fingerprint": "0"}
        yield "heartbeat", [heartbeat(TAG, "w", facts) for _ in range(CALLS)]
        yield "drain", [drain(TAG, "w", 0) for _ in range(CALLS)]
        yield "pause", [pause(TAG, tenant=f"t{number:07}") for number in range(CALLS)]
        yield "claim past paused tenants", [claimed()]
        yield "resume", [resume(TAG, tenant=f"t{number:07}") for number in range(CALLS)]
        yield "trial", [trial(TAG, "w", 10_000, tuple(JobClass)) for _ in range(CALLS)]
        aliases = [
            set_route(ModelRoute.make(f"alias-{number}", {"m": 1}), MANY)
            for number in range(min(MANY, self.count))
        ]
        run_many(self.redis, aliases)
        yield "set_route", aliases[-CALLS:]

    def _deliveries(self) -> Named:
        entries = self.entries(CALLS)
        yield "accept_delivery", [self.accepted(entry) for entry in entries]
        yield "drop_entry", [drop_entry(TAG, entry) for entry in self.entries(CALLS)]
        few = min(CALLS, self.count) // 2
        yield "claim_deliveries", [claim_deliveries(TAG, 1, 60, "n") for _ in range(few)]
        due = run(self.redis, claim_deliveries(TAG, 32, 60, "m")).due
        sent = DeliveryState.DELIVERED, DeliveryAttempt(status=200), 60
        yield "settle_delivery", [settle_delivery(each, *sent) for each in due]
        yield "replay_delivery", [replay_delivery(TAG, delivery_id("j", entry)) for entry in entries]

    def _batches(self) -> Named:
        few, lease_s = min(CALLS, self.count), LEASE_MS / 1000
        yield "claim_batch", [claim_batch(BATCHES, "h", lease_s) for _ in range(few)]
        renewed = [advance_batch(BATCHES, "t", f"{number:07}", "h", lease_s, 60) for number in range(few)]
        yield "advance_batch", renewed
        hook = {"event": "batch.completed", "at_s": 0, "url": "https://example.com", "secret": ""}
        ended = {"status": "completed"}
        calls = [
            end_batch(BATCHES, "t", f"{number:07}", "h", lease_s, 60, ended, **hook, delivery_s=60)
            for number in range(few)
        ]
        yield "end_batch", calls

    def _spoiled(self) -> Named:
        """Tenants whose only job was cancelled, and jobs that have expired in the queue."""
        cancelled, expired = numbered_id("7"), numbered_id("8")
        self._many(added(cancelled, job_class="batch", tenant=f"t{NUMBER}"), cancel(TAG, cancelled))
        yield "claim past cancelled tenants", [claimed(classes=(JobClass.BATCH,))]
        past = ("HSET", TAG.job(expired), "deadline_ms", 1)
        self._many(added(expired, job_class="batch", deadline_s=1e6), past)
        yield "claim past expired jobs", [claimed(classes=(JobClass.BATCH,))]

    def _recovered(self) -> Named:
        """Jobs whose workers have died, of them perhaps."""
        urgent, few = (JobClass.INTERACTIVE,), min(CALLS, self.count // 2)
        for kind, blamed in (("9", True), ("0", False)):
            self._many(*self._run(kind, urgent), self._died(kind, blamed=blamed))
        yield "claim a recovered job", [claimed(classes=urgent) for _ in range(few)]
        run(self.redis, claimed(MANY, classes=urgent, worker="large"))
        yield "recover many jobs", [recover(TAG, "large", SETTINGS, blamed=False)]
        yield "trial beside suspects", [trial(TAG, "w", 10_000, urgent) for _ in range(CALLS)]
        yield "claim a suspect", [claimed(suspect_slots=1, classes=urgent) for _ in range(few)]
