"""Who is to blame for a worker's death: suspects are tried alone, and only what was alone pays."""

import json

import pytest

from headrace.schemas.events import JobState
from headrace.schemas.job import JobClass
from headrace.schemas.scripts import ReleaseReason, heartbeat, recover, release, trial
from headrace.schemas.scripts.upkeep import ITEMS_A_CALL
from headrace.schemas.settings.queue import QueueSettings

pytestmark = pytest.mark.leaves_jobs

LEASE_MS = 60_000


def fields(queue, job_id):
    return queue.record(job_id).fields


def attempts(queue, job_id) -> int:
    return int(fields(queue, job_id).get("attempts", 0))


def asked(queue, worker: str = "busy", classes=tuple(JobClass)) -> bool:
    return queue.call(trial(queue.tag, worker, LEASE_MS, classes))


def has_waited(queue, redis, job_id: str, waited_ms: int) -> None:
    """Make it a suspect that has waited for so long: the time is in its entry's id."""
    stream, entry = fields(queue, job_id)["stream"], fields(queue, job_id)["entry"]
    ((_, values),) = redis.xrange(stream, entry, entry)
    redis.delete(stream)
    redis.xgroup_create(stream, "workers", "0", mkstream=True)
    entry = redis.xadd(stream, values, id=f"{int(entry.partition('-')[0]) - waited_ms}-0")
    redis.hset(queue.tag.job(job_id), "entry", entry)


@pytest.fixture
def suspects(queue) -> list[str]:
    """Three suspects that a crash in company left."""
    job_ids = [queue.add() for _ in range(3)]
    queue.claim(worker="dead")
    assert queue.recover("dead", blamed=True) == 3
    return sorted(job_ids)  # as the worker took them


def test_in_company_nobody_pays_and_everybody_is_a_suspect(queue, suspects):
    for job_id in suspects:
        record = fields(queue, job_id)
        assert (record["attempts"], record["suspect"], record["state"]) == ("0", "8", "queued")
        (death,) = json.loads(record["history"])
        assert (death["worker"], death["alone"]) == ("dead", False)


@pytest.mark.parametrize("dies", ["crashes", "falls silent"])
def test_what_was_alone_on_its_worker_pays(queue, dies):
    job = queue.start()
    queue.recover("w", blamed=True) if dies == "crashes" else queue.lapse(job.job_id)
    assert attempts(queue, job.job_id) == 1
    assert json.loads(fields(queue, job.job_id)["history"])[0]["alone"] is True


@pytest.mark.parametrize("dies", ["crashes", "falls silent"])
@pytest.mark.parametrize(("asked_for", "allowed", "deaths"), [(100, 2, 2), (1, 5, 1), (100, 10, 10)])
def test_no_job_takes_more_workers_with_it_than_the_operator_allows(queue, dies, asked_for, allowed, deaths):
    queue.settings = QueueSettings(max_attempts=allowed)
    job_id = queue.add(max_attempts=asked_for)
    for count in range(1, deaths + 1):
        assert queue.claimed() == [job_id]
        queue.recover("w", blamed=True) if dies == "crashes" else queue.lapse(job_id)
        assert queue.state(job_id) == ("failed" if count == deaths else "queued")
    assert attempts(queue, job_id) == deaths


def test_what_is_left_of_a_workers_jobs_is_alone(queue):
    first, second = queue.add(), queue.add()
    ended = queue.claim().jobs[0]
    assert ended.job_id == first
    queue.finish(ended)
    queue.recover("w", blamed=True)
    assert attempts(queue, second) == 1


@pytest.mark.parametrize("limit", [1, ITEMS_A_CALL])
def test_leases_that_lapse_one_after_another_were_in_company_all_the_same(queue, redis, limit):
    job_ids = [queue.add() for _ in range(3)]
    queue.claim()
    for job_id in job_ids:
        queue.lapse(job_id)
    assert [attempts(queue, job_id) for job_id in job_ids] == [0, 0, 0]
    assert not redis.exists(queue.tag.held("w"))


def test_jobs_of_a_worker_that_serves_other_queues_too_may_have_company_there(queue):
    job_id = queue.add()
    queue.claim(company=True)
    queue.recover("w", blamed=True)
    assert attempts(queue, job_id) == 0
    queue.claim(company=True)
    queue.recover("w", blamed=True)
    assert attempts(queue, job_id) == 1


def test_a_suspect_that_has_passed_its_trial_may_have_company_of_other_queues(queue, suspects):
    (tried,) = queue.claim(company=True).jobs
    assert queue.advance(tried, 0, 12).status == "ok"
    queue.recover("w", blamed=True)
    assert attempts(queue, tried.job_id) == 0


def test_a_suspect_is_alone_at_its_trial_whatever_queues_its_worker_serves(queue, suspects):
    (tried,) = queue.claim(company=True).jobs
    queue.recover("w", blamed=True)
    assert attempts(queue, tried.job_id) == 1


def test_jobs_of_an_older_worker_which_lists_none_had_company(queue, redis):
    job = queue.start()
    redis.delete(queue.tag.held("w"))
    queue.lapse(job.job_id)
    assert (queue.state(job.job_id), attempts(queue, job.job_id)) == ("queued", 0)


def test_a_suspect_is_taken_alone_and_before_all_others(queue, suspects):
    queue.add(job_class="interactive"), queue.add()
    reply = queue.claim()
    assert [job.job_id for job in reply.jobs] == suspects[:1]
    assert reply.suspect_waits
    for expected in suspects[1:]:
        queue.finish(reply.jobs[0])
        reply = queue.claim()
        assert [job.job_id for job in reply.jobs] == [expected]
    assert not reply.suspect_waits
    queue.finish(reply.jobs[0])
    assert len(queue.claimed()) == 2


def test_a_worker_that_holds_jobs_takes_no_suspect(queue, suspects):
    other = queue.add()
    reply = queue.claim(suspect_slots=0)
    assert ([job.job_id for job in reply.jobs], reply.suspect_waits) == ([other], False)


def test_urgent_suspects_are_tried_first(queue):
    for name in reversed(JobClass):
        queue.add(job_class=name)
    queue.claim()
    queue.recover("w", blamed=True)
    classes = []
    while reply := queue.claim().jobs:
        classes.append(fields(queue, reply[0].job_id)["class"])
        queue.finish(reply[0])
    assert classes == list(JobClass)


def test_a_suspect_that_does_not_fit_an_empty_worker_is_left_to_another(queue):
    large = queue.add(max_tokens=1000)
    queue.claim(worker="dead")
    queue.recover("dead", blamed=True)
    small = queue.add()
    reply = queue.claim(budget=100)
    assert ([job.job_id for job in reply.jobs], reply.blocked_class, reply.suspect_waits) == (
        [small],
        None,
        False,
    )
    assert queue.claimed(worker="large") == [large]


def test_a_cleared_suspect_is_given_back_without_an_attempt_and_resumes_as_any_other(queue, suspects):
    (job,) = queue.claim().jobs
    queue.advance(job, 0, 9)
    queue.call(release(queue.tag, queue.segment(job, 9, 10), ReleaseReason.TRIAL))
    record = fields(queue, job.job_id)
    assert (record["stream"], record["attempts"]) == (queue.tag.retry("standard"), "0")
    assert record["released"] == "trial"
    assert "suspect" not in record


@pytest.mark.parametrize(("offset", "kind"), [(8, "suspects"), (9, "retry")])
def test_a_release_clears_a_suspect_that_is_past_where_it_was_one(queue, suspects, offset, kind):
    (job,) = queue.claim().jobs
    queue.release(job, 0, offset)
    assert fields(queue, job.job_id)["stream"] == f"{queue.tag.base}:{kind}:standard"


def test_two_culprits_and_a_good_job_are_told_apart(queue, redis):
    culprits, innocent = [queue.add(max_attempts=3) for _ in range(2)], queue.add(max_attempts=1)
    queue.claim()
    queue.recover("w", blamed=True)
    while reply := queue.claim(worker="t").jobs:
        (job,) = reply
        if job.job_id in culprits:
            assert queue.recover("t", blamed=True) == 1
        else:
            queue.advance(job, 0, 16)
            queue.finish(job, 16, 16)
    assert (queue.state(innocent), attempts(queue, innocent)) == ("succeeded", 0)
    for culprit in culprits:
        assert (queue.state(culprit), attempts(queue, culprit)) == ("failed", 3)
        assert [death["alone"] for death in json.loads(fields(queue, culprit)["history"])] == [False] + [
            True
        ] * 3
    assert redis.xlen(queue.tag.dead) == 2


def test_a_job_that_kills_whole_hosts_is_found_by_its_leases(queue):
    culprit, innocent = queue.add(max_attempts=2), queue.add()
    for _ in range(2):
        assert set(queue.claimed()) == {culprit, innocent}
        for job_id in (culprit, innocent):
            queue.lapse(job_id)
    assert queue.claimed() == [culprit]
    queue.lapse(culprit)
    assert queue.claimed() == [innocent]
    (job,) = queue.claim(resync=True).jobs
    queue.finish(job)
    assert queue.claimed() == [culprit]
    assert queue.lapse(culprit).dead == 1
    assert attempts(queue, innocent) == 0


def test_the_stretch_that_a_suspect_is_tried_for_doubles_with_its_deaths_up_to_a_bound(queue):
    queue.add(max_attempts=20)
    stretches = []
    for _ in range(7):
        (job,) = queue.claim().jobs
        queue.recover("w", blamed=True)
        stretches.append(int(fields(queue, job.job_id)["suspect"]))
    assert stretches == [8, 8, 16, 32, 64, 64, 64]


def test_the_history_of_a_job_that_stood_beside_many_deaths_is_bounded(queue):
    job_id = queue.add()
    for _ in range(40):
        queue.add()
        jobs = queue.claim(suspect_slots=0).jobs
        for job in jobs:
            if job.job_id != job_id:
                queue.lapse(job_id)
                queue.finish(job)
        (job,) = queue.claim().jobs
        queue.advance(job, job.offset, job.offset + 100)
        queue.release(job, job.offset + 100, job.offset + 100)
    deaths = json.loads(fields(queue, job_id)["history"])
    assert (len(deaths), attempts(queue, job_id)) == (32, 0)
    assert deaths == sorted(deaths, key=lambda death: death["at_ms"])


def test_a_suspect_can_be_cancelled_while_it_waits_and_while_it_is_tried(queue, suspects):
    (job,) = queue.claim().jobs
    assert queue.cancel(job.job_id) == "cancelling"
    assert queue.advance(job, 0, 1).status == "cancelled"
    queue.finish(job, 1, 1, state="cancelled")
    assert queue.cancel(suspects[1]) == "cancelled"
    queue.make_due(suspects[2], queue.tag.deadlines)
    assert queue.claimed() == []
    assert [queue.state(job_id) for job_id in suspects] == ["cancelled", "cancelled", "expired"]


def test_a_cancelled_suspect_that_kills_its_worker_ends_cancelled(queue, suspects, redis):
    (job,) = queue.claim().jobs
    queue.cancel(job.job_id)
    queue.recover("w", blamed=True)
    assert queue.state(job.job_id) == JobState.CANCELLED
    assert not redis.exists(queue.tag.trial)


def test_after_a_suspect_ended_its_worker_other_jobs_come_first(queue, redis, suspects):
    assert queue.claimed() == suspects[:1]
    queue.recover("w", blamed=True)
    other = queue.add()
    assert queue.claimed(worker="next") == [other]
    assert queue.claimed(worker="idle") == [suspects[1]]  # for whom there is nothing else
    redis.hset(queue.tag.pulse, "others_until_ms", 1)
    queue.add()
    assert queue.claimed(worker="last") == [suspects[2]]


@pytest.mark.parametrize(("gone_s", "first_s"), [(0.1, 2), (20, 20), (500, 60)])
def test_they_do_so_for_as_long_as_nobody_was_there_for_them(queue, redis, suspects, gone_s, first_s):
    now_ms = redis.time()[0] * 1000
    redis.hset(queue.tag.pulse, "trial_died_ms", round(now_ms - gone_s * 1000))
    other = queue.add()
    assert queue.claimed() == [other]
    until_ms = float(redis.hget(queue.tag.pulse, "others_until_ms"))
    assert first_s * 1000 - 1 <= until_ms - now_ms <= first_s * 1000 + 5000
    queue.add()
    redis.hset(queue.tag.pulse, "others_until_ms", round(now_ms + 3_600_000))  # a clock that was ahead
    assert queue.claimed() == suspects[:1]


# Busy workers ---------------------------------------------------------------------------------------------


def test_a_busy_worker_is_asked_only_when_a_suspect_has_waited(queue, redis, suspects):
    assert not asked(queue)
    has_waited(queue, redis, suspects[0], 1500)
    assert not asked(queue)
    has_waited(queue, redis, suspects[0], 3000)
    assert not asked(queue, classes=())
    assert not asked(queue, classes=(JobClass.BATCH,))
    assert asked(queue)


@pytest.mark.parametrize("sizes", [{"max_tokens": 1000}, {"prompt": "never counted " * 100}])
def test_a_worker_is_not_asked_for_a_suspect_that_it_would_leave_to_a_larger_one(queue, redis, sizes):
    large = queue.add(**sizes)
    queue.claim(worker="dead")
    queue.recover("dead", blamed=True)
    has_waited(queue, redis, large, 3000)
    for worker, capacity in (("small", 500), ("large", 2000)):
        queue.call(heartbeat(queue.tag, worker, {"capacity_tokens": capacity}))
    assert not asked(queue, "small")
    assert asked(queue, "large")


def test_a_worker_that_can_try_none_of_the_suspects_is_not_asked_again_at_once(queue, redis, suspects):
    has_waited(queue, redis, suspects[0], 3000)
    assert asked(queue, "tight")
    assert queue.claimed(worker="tight", budget=16) == []
    assert not asked(queue, "tight")


def test_one_busy_worker_is_asked_at_a_time(queue, redis, suspects):
    has_waited(queue, redis, suspects[0], 3000)
    assert asked(queue, "one")
    assert not asked(queue, "another")
    assert 0 < redis.pttl(queue.tag.trial) <= LEASE_MS
    redis.delete(queue.tag.trial)  # as after a lease
    assert asked(queue, "another")


def test_nobody_is_asked_while_suspects_are_tried(queue, redis, suspects):
    queue.claim(worker="tries")
    assert redis.get(queue.tag.trial).startswith(b"tries ")
    has_waited(queue, redis, suspects[1], 3000)
    assert not asked(queue)
    queue.recover("tries", blamed=True)
    assert not asked(queue)  # others come first
    redis.hset(queue.tag.pulse, "others_until_ms", 1)
    assert asked(queue)


def test_a_worker_that_finds_no_suspect_tries_no_more(queue, redis, suspects):
    for _ in suspects:
        queue.finish(queue.claim().jobs[0])
    assert redis.exists(queue.tag.trial)
    assert queue.claimed(worker="another") == []
    assert redis.exists(queue.tag.trial)
    assert queue.claimed() == []
    assert not redis.exists(queue.tag.trial)


def test_a_suspect_from_the_time_when_redis_clock_was_ahead_has_waited(queue, redis, suspects):
    has_waited(queue, redis, suspects[0], -3_600_000)
    assert asked(queue)


# What a worker holds --------------------------------------------------------------------------------------


def test_what_a_worker_holds_is_listed_until_it_leaves(queue, redis):
    job_ids = [queue.add() for _ in range(4)]
    jobs = queue.claim().jobs
    held = queue.tag.held("w")
    assert redis.zrange(held, 0, -1) == sorted(job_id.encode() for job_id in job_ids)
    assert redis.pttl(held) > 60_000
    queue.finish(jobs[0])
    queue.release(jobs[1])
    queue.lapse(jobs[2].job_id)
    assert redis.zrange(held, 0, -1) == [b"*", jobs[3].job_id.encode()]
    queue.finish(jobs[3])
    assert not redis.exists(held)


def test_the_list_outlives_the_leases_of_a_worker_that_speaks(queue, redis):
    queue.start()
    redis.pexpire(queue.tag.held("w"), 1000)
    asked(queue, "w")
    assert redis.pttl(queue.tag.held("w")) > LEASE_MS


def test_a_dead_workers_jobs_come_back_in_pieces(queue, redis):
    queue.fill(ITEMS_A_CALL + 7)
    queue.claim()
    redis.zadd(queue.tag.held("w"), {"no job": 1})
    taken, left = 0, True
    calls = 0
    while left:
        jobs, left, _ = queue.call(recover(queue.tag, "w", queue.settings, blamed=True))
        taken, calls = taken + jobs, calls + 1
    assert (taken, calls) == (ITEMS_A_CALL + 7, 2)
    assert not redis.exists(queue.tag.held("w"), queue.tag.leases)
    found = [redis.hget(key, "attempts") for key in redis.scan_iter(match="*:job:*", count=1000)]
    assert found == [b"0"] * (ITEMS_A_CALL + 7)
