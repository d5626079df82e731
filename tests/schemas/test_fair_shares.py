"""Tenants share by what they are served, not by what was expected; and nothing is kept for good."""

import pytest

from headrace.schemas.events import End, JobState, Output
from headrace.schemas.scripts import Segment, finish

pytestmark = pytest.mark.leaves_jobs


class Engine:
    """A worker of so many tokens; a job ends when it has come to what its tenant's really do."""

    def __init__(self, queue, capacity: int, comes_to: dict[str, int]) -> None:
        self.queue, self.capacity, self.comes_to = queue, capacity, comes_to
        self.running = {}
        self.served = dict.fromkeys(comes_to, 0)

    def tick(self, tokens: int, ratio: float) -> None:
        for job, tenant, cost, done in list(self.running.values()):
            until = min(done + tokens, self.comes_to[tenant])
            self.served[tenant] += until - done
            if until < self.comes_to[tenant]:
                self.queue.advance(job, done, until)
                self.running[job.job_id] = job, tenant, cost, until
            else:
                self.queue.finish(job, done, until)
                del self.running[job.job_id]
        free = self.capacity - sum(cost for _, _, cost, _ in self.running.values())
        for job in self.queue.claim(budget=free, output_ratio=ratio).jobs:
            record = self.queue.record(job.job_id).fields
            cost = 16 + int(int(record["max_tokens"]) * ratio)
            self.served[record["tenant"]] += 16
            self.running[job.job_id] = job, record["tenant"], cost, 0


@pytest.mark.parametrize("weights", [(1, 1), (1, 3)])
@pytest.mark.parametrize("ratio", [0.1, 1.0])
def test_tenants_share_by_tokens_served_whatever_they_ask_for(queue, redis, weights, ratio):
    names = ("much", "little")
    for name, weight in zip(names, weights, strict=True):
        redis.hset(queue.tag.tenants, name, f'{{"weight":{weight}}}')
    queue.fill(600, tenant="much", max_tokens=2000, prompt=None, prompt_token_ids=[1] * 16)
    queue.fill(600, tenant="little", max_tokens=120, prompt=None, prompt_token_ids=[1] * 16)
    engine = Engine(queue, round(12_000 * ratio), {"much": 40, "little": 120})
    for _ in range(140):
        engine.tick(20, ratio)
    shares = [engine.served[name] / weight for name, weight in zip(names, weights, strict=True)]
    assert min(engine.served[name] for name in names) > 5_000
    assert shares[0] == pytest.approx(shares[1], rel=0.1)


def test_a_job_that_runs_longer_than_was_expected_is_charged_as_it_runs(queue, redis):
    queue.add(max_tokens=4000), queue.add()
    job = queue.claim(output_ratio=0.01, slots=1).jobs[0]
    queue.advance(job, 0, 111)
    assert redis.zscore(queue.tag.backlog("standard"), "default") == 64
    queue.advance(job, 111, 1000)
    assert redis.zscore(queue.tag.backlog("standard"), "default") == 1016


@pytest.mark.parametrize("how", ["finish", "release", "recover", "cancel"])
def test_a_job_that_leaves_its_worker_is_charged_with_what_it_came_to(queue, redis, how):
    queue.add(max_tokens=984)
    (job,) = queue.claim().jobs
    assert redis.zscore(queue.tag.ahead("standard"), "default") == 16 + 256
    queue.advance(job, 0, 4)
    {
        "finish": lambda: queue.finish(job, 4, 4),
        "release": lambda: queue.release(job, 4, 4),
        "recover": lambda: queue.recover("w", blamed=False),
        "cancel": lambda: (queue.cancel(job.job_id), queue.release(job, 4, 4)),
    }[how]()
    assert redis.zscore(queue.tag.ahead("standard"), "default") == 20
    assert queue.record(job.job_id).fields["charged"] == "20"


def test_a_refused_job_is_not_charged(queue, redis):
    job = queue.start()
    queue.finish(job, state="failed")
    assert not redis.exists(queue.tag.ahead("standard"))


def test_what_is_known_of_tenants_that_are_ahead_no_more_is_forgotten(queue, redis):
    for number in range(300):
        queue.add(tenant=f"t{number}")
    queue.claim()
    for _ in range(100):
        queue.add(tenant="steady")
    for job in queue.claim().jobs:
        queue.finish(job, 0, 16)
    assert redis.zcard(queue.tag.ahead("standard")) < 300
    redis.delete(queue.tag.leases)
    for _ in range(4):
        queue.upkeep()
    assert not redis.exists(queue.tag.ahead("standard"))
    assert redis.hkeys(queue.tag.served("standard")) in ([], [b"*"])


def test_no_more_than_a_thousand_tenants_are_known_to_be_ahead(queue, redis):
    redis.zadd(queue.tag.ahead("standard"), {f"t{number}": 100 + number for number in range(1000)})
    queue.add(tenant="new")
    queue.claim()
    left = redis.zrange(queue.tag.ahead("standard"), 0, -1)
    assert len(left) <= 1000
    assert b"t999" in left


def test_a_job_that_is_cancelled_before_it_was_read_costs_its_tenant_nothing(queue, redis):
    queue.add(tenant="t", prompt="large " * 100_000)
    (job,) = queue.claim(context_tokens=512).jobs
    end = End(offset=0, end=JobState.CANCELLED, finish_reason="cancelled")
    output = Output(finish_reason="cancelled")
    queue.call(finish(queue.tag, Segment(job.job_id, job.fence, 0, 0), end, output))
    assert not redis.zrange(queue.tag.ahead("standard"), 0, -1)
