"""How jobs wait, end and come back."""

import pytest

from headrace import IdempotencyConflict, InvalidJob, JobNotFound, QueueFull
from headrace.schemas.events import JobState
from headrace.schemas.ids import new_job_id
from headrace.schemas.scripts import requeue_dead
from headrace.schemas.settings.queue import Limits, QueueSettings

pytestmark = pytest.mark.leaves_jobs


def test_the_same_enqueue_sent_again_is_accepted_once(queue, redis):
    job_id = new_job_id("m")
    assert queue.add(job_id) == queue.add(job_id) == job_id
    assert redis.xlen(queue.tag.lane("standard", "default")) == 1


def test_an_idempotency_key_gives_the_first_job_and_refuses_another_body(queue):
    first = queue.add(idempotency_key="k")
    assert queue.add(idempotency_key="k") == first
    with pytest.raises(IdempotencyConflict) as conflict:
        queue.add(idempotency_key="k", max_tokens=17)
    assert conflict.value.job_id == first
    assert queue.add(idempotency_key="k", tenant="other") != first


def test_a_full_lane_refuses_with_its_depth_and_when_to_come_back(queue):
    queue.settings = QueueSettings(limits=Limits(max_queued_jobs=2))
    queue.add(), queue.add()
    with pytest.raises(QueueFull) as full:
        queue.add()
    assert full.value.depth == 2
    assert full.value.retry_after_s >= 1
    queue.add(tenant="other")
    queue.claimed(slots=1)
    queue.add()


def test_a_lane_is_full_by_bytes_too(queue):
    queue.settings = QueueSettings(limits=Limits(max_queued_bytes=2000))
    queue.add(prompt="x" * 1500)
    with pytest.raises(QueueFull) as full:
        queue.add(prompt="x" * 1500)
    assert full.value.queued_bytes > 1500


def test_retry_after_follows_the_rate_at_which_jobs_end(queue, redis):
    pace = queue.tag.pace("standard")
    queue.finish(queue.start())
    redis.hset(pace, mapping={"at": 1, "mean": 1000})
    queue.finish(queue.start())
    assert float(redis.hget(pace, "mean")) == pytest.approx(
        0.9 * 1000 + 0.1 * 60_000
    )  # a pause counts as 60 s
    redis.hset(pace, "mean", 2000)
    queue.settings = QueueSettings(limits=Limits(max_queued_jobs=200))
    queue.fill(200)
    with pytest.raises(QueueFull) as full:
        queue.add()
    assert full.value.retry_after_s == 4.0


def test_delayed_jobs_are_limited_too(queue):
    queue.settings = QueueSettings(limits=Limits(max_queued_jobs=2))
    queue.fill(2, delay_s=100)
    for sizes in ({"delay_s": 100}, {}):
        with pytest.raises(QueueFull):
            queue.add(**sizes)


def test_a_job_too_large_is_refused_before_it_is_sent(queue):
    queue.settings = QueueSettings(limits=Limits(max_job_bytes=1000))
    with pytest.raises(InvalidJob, match="max_job_bytes"):
        queue.add(prompt="x" * 1000)


def test_a_delayed_job_waits_for_its_time(queue):
    job_id = queue.add(delay_s=100)
    assert queue.upkeep().promoted == 0
    assert queue.claimed() == []
    queue.make_due(job_id, queue.tag.delayed)
    assert queue.upkeep().promoted == 1
    assert queue.claimed() == [job_id]


@pytest.mark.parametrize("delay_s", [0, 100])
def test_a_waiting_job_is_cancelled_at_once(queue, delay_s):
    job_id = queue.add(delay_s=delay_s)
    assert queue.cancel(job_id) == "cancelled"
    assert queue.cancel(job_id) == "already"
    assert queue.claimed() == []
    result = queue.record(job_id).result()
    assert (result.state, result.finish_reason, result.text) == (JobState.CANCELLED, "cancelled", "")


def test_what_is_not_there_can_not_be_cancelled(queue):
    with pytest.raises(JobNotFound):
        queue.cancel(new_job_id("m"))


def test_a_deadline_ends_a_job_that_still_waits(queue):
    waiting, delayed = queue.add(deadline_s=100), queue.add(deadline_s=100, delay_s=200)
    for job_id in (waiting, delayed):
        queue.make_due(job_id, queue.tag.deadlines)
    assert queue.upkeep().expired == 2
    assert {queue.state(waiting), queue.state(delayed)} == {"expired"}


@pytest.mark.parametrize("interrupted", ["released", "lapsed"])
def test_a_deadline_that_passed_while_the_job_ran_ends_it_once_it_waits_again(queue, interrupted):
    job = queue.start(deadline_s=100)
    queue.make_due(job.job_id, queue.tag.deadlines)
    assert queue.upkeep().expired == 0
    queue.release(job) if interrupted == "released" else queue.lapse(job.job_id)
    assert queue.upkeep().expired == 1
    assert queue.state(job.job_id) == "expired"


def test_a_job_that_ends_unattended_shows_what_it_had(queue):
    job = queue.start()
    queue.advance(job, 0, 2, 'é "quoted"\n')
    queue.advance(job, 2, 3, "日本")
    queue.release(job)
    queue.cancel(job.job_id)
    result = queue.record(job.job_id).result()
    assert result.text == 'é "quoted"\n日本'
    assert result.token_ids == (0, 1, 2)
    assert queue.log(job.job_id)[-1] == "3-1"


def test_a_released_job_comes_back_first_with_its_progress_and_no_attempt(queue):
    job = queue.start()
    queue.add()
    assert queue.release(job, 0, 4).status == "ok"
    assert queue.record(job.job_id).fields["released"] == "drain"
    back = queue.claim(slots=1).jobs[0]
    assert (back.job_id, back.offset, back.attempts, back.suspect_until) == (job.job_id, 4, 0, None)
    assert [chunk.offset for chunk in queue.chunks(job.job_id)] == [4]


def test_a_release_with_the_prompts_true_length_makes_the_next_cost_exact(queue):
    queue.add(prompt="x" * 32)
    (job,) = queue.claim(tokens_per_byte=0.1).jobs
    queue.release(job, prompt_tokens=320)
    assert queue.claim(budget=100, tokens_per_byte=0.1).blocked_tokens == 336


def test_a_lapsed_lease_brings_the_job_back_with_an_attempt(queue):
    job = queue.start()
    queue.advance(job, 0, 4)
    assert queue.lapse(job.job_id).recovered == 1
    (back,) = queue.claim().jobs
    assert (back.offset, back.attempts, back.suspect_until) == (4, 1, None)


def test_a_second_death_makes_a_suspect_and_the_last_one_a_dead_letter(queue, redis):
    job_id = queue.add(max_attempts=3)
    for _ in range(2):
        queue.claimed()
        queue.lapse(job_id)
    assert queue.claim(suspect_slots=0).jobs == []
    (suspect,) = queue.claim().jobs
    assert suspect.suspect_until == 8
    assert queue.lapse(job_id).dead == 1
    record = queue.record(job_id)
    assert (record.state, record.error.code) == ("failed", "crashed")
    ((entry_id, letter),) = redis.xrange(queue.tag.dead)
    assert (letter[b"job"].decode(), letter[b"attempts"]) == (job_id, b"3")
    assert queue.call(requeue_dead(queue.tag, entry_id.decode())) == job_id
    assert queue.claimed() == [job_id]


@pytest.mark.parametrize("from_scratch", [False, True])
def test_a_dead_letter_lives_again_with_or_without_its_progress(queue, redis, from_scratch):
    job = queue.start(max_attempts=1)
    queue.advance(job, 0, 5)
    queue.lapse(job.job_id)
    ((entry_id, _),) = redis.xrange(queue.tag.dead)
    queue.call(requeue_dead(queue.tag, entry_id.decode(), from_scratch=from_scratch))
    (back,) = queue.claim().jobs
    assert back.offset == (0 if from_scratch else 5)
    record = queue.record(job.job_id)
    assert (record.error, "first_token_ms" in record.fields) == (None, not from_scratch)
    assert queue.finish(back, back.offset, 6).status == "ok"
    assert queue.log(job.job_id)[-2:] == ["6-0", "6-1"]
    with pytest.raises(JobNotFound):
        queue.call(requeue_dead(queue.tag, entry_id.decode()))


def test_a_dead_letter_that_ends_without_another_token_has_its_end_marker(queue, redis):
    job = queue.start(max_attempts=1)
    queue.advance(job, 0, 5)
    queue.lapse(job.job_id)
    ((entry_id, _),) = redis.xrange(queue.tag.dead)
    queue.call(requeue_dead(queue.tag, entry_id.decode()))
    assert queue.log(job.job_id) == ["5-0"]
    queue.cancel(job.job_id)
    assert queue.log(job.job_id) == ["5-0", "5-1"]


def test_a_dead_workers_jobs_come_back_at_once_and_only_its_own(queue):
    mine, theirs = queue.add(), queue.add()
    queue.claimed(slots=1, worker="dead")
    queue.claimed(slots=1, worker="alive")
    assert queue.recover("dead", blamed=False) == 1
    (back,) = queue.claim().jobs
    assert (back.job_id, back.suspect_until) == (mine, None)
    assert queue.state(theirs) == "running"


def test_jobs_of_a_worker_that_crashed_by_itself_are_suspects_run_one_at_a_time(queue):
    for _ in range(3):
        queue.add()
    queue.claimed()
    assert queue.recover("w", blamed=True) == 3
    (one,) = queue.claim(suspect_slots=1).jobs
    assert one.suspect_until == 8
    assert queue.claimed(suspect_slots=0) == []


def test_a_suspect_is_cleared_once_it_is_past_where_it_crashed(queue):
    queue.start()
    queue.recover("w", blamed=True)
    (suspect,) = queue.claim().jobs
    queue.advance(suspect, 0, 8)
    assert "suspect" in queue.record(suspect.job_id).fields
    queue.advance(suspect, 8, 9)
    assert "suspect" not in queue.record(suspect.job_id).fields


def test_an_ended_job_belongs_to_nobody(queue):
    queue.start()
    queue.recover("w", blamed=True)
    (job,) = queue.claim().jobs
    queue.cancel(job.job_id)
    queue.finish(job, state="cancelled")
    assert not queue.record(job.job_id).fields.keys() & {"fence", "cancel", "suspect", "stream", "entry"}


def test_a_job_starts_once_however_often_it_is_claimed(queue):
    job = queue.start(webhook={"url": "https://example.com/hook", "events": ["job.started"]})
    started_ms = queue.record(job.job_id).fields["started_ms"]
    queue.redis.hset(queue.tag.job(job.job_id), "enqueued_ms", int(started_ms) - 2000)
    queue.release(job)
    (back,) = queue.claim().jobs
    queue.finish(back, 0, 1)
    assert queue.outbox() == [(job.job_id, "job.started")]
    result = queue.record(job.job_id).result()
    assert result.timings.queued_s == 2.0
    assert 2.0 <= result.timings.first_token_s <= result.timings.total_s


def test_a_job_to_be_cancelled_is_not_run_again(queue):
    job = queue.start()
    queue.cancel(job.job_id)
    queue.lapse(job.job_id)
    assert queue.state(job.job_id) == "cancelled"


def test_the_outbox_holds_exactly_the_events_that_were_asked_for(queue):
    hook = {"url": "https://example.com/hook", "events": ["job.started", "job.failed"]}
    job = queue.start(webhook=hook)
    other = queue.start(webhook={"url": "https://example.com/hook"})
    queue.finish(job, state="succeeded")
    queue.finish(other, state="succeeded")
    assert queue.outbox() == [(job.job_id, "job.started"), (other.job_id, "job.succeeded")]


def test_upkeep_counts_what_waits(queue):
    for tenant in ("a", "a", "b"):
        queue.add(tenant=tenant)
    queue.release(queue.claim(slots=1).jobs[0])
    assert queue.upkeep().queued == 3


def test_an_idle_worker_is_rung_and_an_empty_queue_is_silent(queue, redis):
    for _ in range(100):
        queue.add()
    assert redis.llen(queue.tag.bell) == 64
    queue.claimed()
    queue.claimed()
    assert not redis.exists(queue.tag.bell)
