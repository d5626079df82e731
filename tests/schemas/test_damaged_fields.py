"""A record with any one field damaged: no script fails, and the neighbour's job is not touched."""

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest

from headrace.schemas.errors import JobNotFound
from headrace.schemas.events import parse_event
from headrace.schemas.scripts import advance, heartbeat

pytestmark = pytest.mark.leaves_jobs

FIELDS = [
    name
    for line in (
        "spec state class tenant v prompt_tokens prompt_bytes max_tokens max_attempts retention_ms events",
        "stream entry epoch fence worker attempts suspect history released offset cancel max_runtime_ms",
        "deadline_ms enqueued_ms started_ms first_token_ms finished_ms result error held passed charged n",
    )
    for name in line.split()
]
VALUES = ("", "x", "-1", "-0", "1.5", "nan", "inf", "1e308", "9" * 30, "0x10", "007", "[", " 1 ", None)


IN_THE_QUICK_RUN = 3
"""One in so many values, others for the next field."""


def each_field() -> Iterator[Any]:
    for place, name in enumerate(FIELDS):
        yield pytest.param((name, VALUES[place % IN_THE_QUICK_RUN :: IN_THE_QUICK_RUN]), id=name)
        yield pytest.param((name, VALUES), id=f"{name}, every value", marks=pytest.mark.slow)


@pytest.fixture(params=each_field())
def damages(request, redis, queue):
    """Each damage of a field, to a job that has a neighbour: the two, and what does the damage."""

    field, values = request.param

    def each(**sizes: int):
        for value in values:
            redis.flushall()
            broken = queue.add(tenant="a", max_runtime_s=5.0, deadline_s=50.0, **sizes)
            fine = queue.add(tenant="b")

            def damage(job_id: str = broken, value: str | None = value) -> None:
                if value is None:
                    redis.hdel(queue.tag.job(job_id), field)
                else:
                    redis.hset(queue.tag.job(job_id), field, value)

            yield broken, fine, damage

    return each


def test_a_claim_takes_the_neighbour(queue, damages):
    for _, fine, damage in damages():
        damage()
        assert fine in queue.claimed()


def test_a_claim_takes_it_or_ends_it_with_a_reason(queue, redis, damages):
    for broken, fine, damage in damages():
        damage()
        taken = {*queue.claimed(), *queue.claimed()}
        if broken not in taken:
            job = queue.tag.job(broken)
            state, error = redis.hmget(job, "state", "error")
            assert state == b"cancelled" or (state == b"failed" and b"its record was damaged: " in error)
            assert redis.ttl(job) > 0
            assert set(redis.hkeys(queue.tag.queued_bytes)) <= {b"standard:a"}  # of whom nobody knows now
        assert fine in taken


def test_upkeep_and_recover_give_the_neighbour_back(queue, redis, damages):
    for broken, fine, damage in damages():
        assert {broken, fine} <= set(queue.claimed())
        damage()
        redis.zadd(queue.tag.leases, {broken: 1, fine: 1})
        assert queue.upkeep().recovered >= 1
        assert fine in queue.claimed()
        queue.recover("w", blamed=False)
        assert fine in queue.claimed() + queue.claimed()  # suspects are tried one by one


def test_a_crash_and_a_second_silence_give_the_neighbour_back(queue, redis, damages):
    for broken, fine, damage in damages():
        assert {broken, fine} <= set(queue.claimed())
        damage()
        queue.recover("w", blamed=True)
        assert queue.state(fine) == "queued"
        queue.claim()
        redis.zadd(queue.tag.leases, {broken: 1, fine: 1})
        queue.upkeep()
        assert queue.state(fine) == "queued"


def test_a_smaller_worker_that_passes_it_over_takes_the_neighbour(queue, redis, damages):
    sizes = {"capacity_tokens": 320, "context_tokens": 8192, "budget": 320}
    for _, fine, damage in damages(max_tokens=1000):
        queue.call(heartbeat(queue.tag, "large", {"capacity_tokens": 6400}))
        damage()
        assert fine in [*queue.claimed(**sizes), *queue.claimed(**sizes)]


def test_who_reads_it_live_can_read_its_end(queue, redis, damages):
    for broken, _, damage in damages():
        with redis.pubsub() as live:
            live.subscribe(queue.tag.chan(broken))
            live.get_message(timeout=5)
            damage()
            with suppress(JobNotFound):  # without a state there is none
                queue.cancel(broken)
            while (message := live.get_message()) is not None:
                parse_event(message["data"])


def test_its_own_worker_can_end_it_and_write_beside_it(queue, damages):
    for broken, fine, damage in damages():
        jobs = {job.job_id: job for job in queue.claim().jobs}
        damage()
        segments = [queue.segment(jobs[job_id], 0, 1) for job_id in (broken, fine)]
        answers = queue.call(advance(queue.tag, 60_000, segments))
        assert answers[1].status == "ok"
        queue.finish(jobs[broken], 0, 1, state="failed")
        assert queue.finish(jobs[fine], 1, 2).status == "ok"
