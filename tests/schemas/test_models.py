"""A token belongs to a model: who may go on with a job, and what becomes of it when nobody can."""

import pytest

from headrace.schemas.events import Chunk, FailureCode, parse_event
from headrace.schemas.job import SCHEMA_VERSION
from headrace.schemas.scripts import ModelChange, heartbeat, requeue_dead, upkeep

pytestmark = pytest.mark.leaves_jobs

A, B = "a" * 16, "b" * 16


def interrupted(queue, model: str, tokens: int = 3, **fields: object) -> str:
    """A job that a worker of that model gave back after some tokens."""
    job_id = queue.add(**fields)
    (job,) = queue.claim(fingerprint=model).jobs
    queue.release(job, 0, tokens)
    return job_id


def beat(queue, worker: str, model: str, **facts: object):
    """A worker of that model says that it lives."""
    said = {"fingerprint": model, "classes": "interactive,standard,batch", "max_v": 1, **facts}
    return queue.call(heartbeat(queue.tag, worker, said))


def change(queue, action: str) -> int:
    """Upkeep when nobody has been heard of for longer than the grace; how many jobs it let go."""
    for readers in queue.redis.zrange(queue.tag.readers, 0, -1):
        queue.redis.zadd(queue.tag.readers, {readers: 1})
    call = upkeep(queue.tag, queue.settings, model_change=ModelChange(action))
    return queue.call(call).counts.model_changed


@pytest.mark.parametrize("how", ["released", "recovered", "suspected", "lapsed"])
def test_a_job_with_tokens_is_taken_by_workers_of_the_same_model_alone(queue, how):
    job_id = queue.add()
    (job,) = queue.claim(fingerprint=A).jobs
    queue.advance(job, 0, 3)
    if how == "released":
        queue.release(job, 3, 3)
    elif how == "lapsed":
        queue.lapse(job_id)
    else:
        queue.recover("w", blamed=how == "suspected")
    assert queue.claimed(fingerprint=B) == []
    assert queue.claimed(fingerprint="") == []
    (again,) = queue.claim(fingerprint=A).jobs
    assert (again.job_id, again.offset) == (job_id, 3)
    assert queue.record(job_id).fields["fingerprint"] == A


def test_a_job_without_tokens_is_anybodys_and_belongs_to_who_makes_its_first(queue):
    job_id = queue.add()
    (job,) = queue.claim(fingerprint=A).jobs
    queue.release(job)
    (job,) = queue.claim(fingerprint=B).jobs
    queue.finish(job, 0, 2)
    assert queue.record(job_id).result().fingerprint == B


def test_a_job_of_an_older_worker_goes_on_anywhere(queue):
    job_id = interrupted(queue, "")
    assert queue.claimed(fingerprint=A) == [job_id]
    assert "fingerprint" not in queue.record(job_id).fields


def test_jobs_of_another_model_are_in_nobodys_way(queue):
    interrupted(queue, A)
    own, plain = interrupted(queue, B), queue.add()
    assert queue.claimed(fingerprint=B) == [own, plain]


@pytest.mark.parametrize("tokens", [0, 3])
def test_recovered_jobs_of_a_newer_version_hold_up_no_recovered_job_of_this_one(queue, tokens):
    newer = queue.add(v=SCHEMA_VERSION + 1)
    (job,) = queue.claim(fingerprint=A, max_v=SCHEMA_VERSION + 1).jobs
    queue.release(job, 0, tokens)
    behind = interrupted(queue, A, tenant="other")
    assert queue.upkeep().queued == 2
    assert queue.claimed(fingerprint=A) == [behind]
    assert queue.claimed(fingerprint=A, max_v=SCHEMA_VERSION + 1) == [newer]


@pytest.mark.parametrize("kind", ["retry", "suspects"])
def test_what_an_older_workers_script_left_at_the_head_of_everybodys_stream_is_put_where_it_belongs(
    queue, kind
):
    """Older scripts know one stream a class: jobs of another model and of a newer version lie in it."""
    stream = getattr(queue.tag, kind)("standard")
    jobs = [interrupted(queue, A), interrupted(queue, "", v=1), queue.add(v=SCHEMA_VERSION + 1)]
    other, mine, newer = jobs
    queue.redis.delete(queue.tag.retry(f"standard:{A}"), queue.tag.retry("standard"))
    for job_id in (other, newer, mine):
        record = queue.record(job_id).fields
        fields = {name: record[name] for name in ("prompt_tokens", "prompt_bytes", "max_tokens", "v")}
        entry = queue.redis.xadd(stream, {"job": job_id, **fields})
        queue.redis.hset(queue.tag.job(job_id), mapping={"stream": stream, "entry": entry})
    assert queue.claimed(fingerprint=B) == [mine]
    assert queue.record(other).fields["stream"] == getattr(queue.tag, kind)(f"standard:{A}")
    assert queue.record(newer).fields["stream"] == getattr(queue.tag, kind)(f"standard:v{SCHEMA_VERSION + 1}")


@pytest.mark.parametrize("how", ["released", "suspected"])
def test_a_job_whose_model_is_gone_begins_from_scratch_with_another(queue, how):
    job_id = queue.add()
    (job,) = queue.claim(fingerprint=A).jobs
    queue.advance(job, 0, 5)
    queue.release(job, 5, 5) if how == "released" else queue.recover("w", blamed=True)
    assert change(queue, "restart") == 1
    assert queue.log(job_id) == []
    (again,) = queue.claim(fingerprint=B).jobs
    assert (again.job_id, again.offset, again.suspect_until is None) == (job_id, 0, how == "released")
    queue.finish(again, 0, 2)
    result = queue.record(job_id).result()
    assert (result.fingerprint, result.restarts, result.mixed) == (B, 1, False)
    assert len(result.token_ids) == 2


def test_a_job_whose_model_is_gone_goes_on_with_another_where_the_operator_wants_that(queue):
    job_id = interrupted(queue, A)
    assert change(queue, "resume") == 1
    (job,) = queue.claim(fingerprint=B).jobs
    assert job.offset == 3
    queue.release(job, 3, 5)
    assert queue.claimed(fingerprint=A) == []
    queue.finish(*queue.claim(fingerprint=B).jobs, 5, 6)
    result = queue.record(job_id).result()
    assert (result.fingerprint, result.restarts, result.mixed) == (B, 0, True)


def test_jobs_with_long_logs_whose_model_is_gone_fail_one_a_call(queue, redis):
    queue.fill(3)
    for job in queue.claim(fingerprint=A).jobs:
        queue.release(job, 0, 3)
        redis.hset(queue.tag.job(job.job_id), "offset", 20_000)
    assert [change(queue, "fail") for _ in range(4)] == [1, 1, 1, 0]


def test_a_job_whose_model_is_gone_fails_where_the_operator_wants_that(queue):
    job_id = interrupted(queue, A)
    assert change(queue, "fail") == 1
    record = queue.record(job_id)
    assert (record.state, record.error.code) == ("failed", FailureCode.MODEL_CHANGED)
    assert record.result().fingerprint == A


def test_jobs_wait_for_their_model_within_the_grace_and_while_one_worker_has_it(queue):
    job_id = interrupted(queue, A)
    queue.redis.zadd(queue.tag.readers, {f"standard:{A}": 1})
    beat(queue, "w1", A)
    call = upkeep(queue.tag, queue.settings, model_change=ModelChange("restart", 30))
    assert queue.call(call).counts.model_changed == 0
    assert queue.claimed(fingerprint=A) == [job_id]


def test_a_worker_that_serves_other_classes_does_not_keep_a_job_waiting(queue):
    interrupted(queue, A)
    queue.redis.delete(queue.tag.readers)
    queue.redis.zadd(queue.tag.readers, {f"standard:{A}": 1})
    beat(queue, "w1", A, classes="batch")
    call = upkeep(queue.tag, queue.settings, model_change=ModelChange("restart", 30))
    assert queue.call(call).counts.model_changed == 1


def test_nobodys_model_counts_as_gone_right_after_a_silence_of_all(queue):
    interrupted(queue, A)
    queue.upkeep()
    queue.redis.hset(queue.tag.pulse, "at", 1)
    assert change(queue, "restart") == 0


def test_models_without_jobs_or_workers_are_forgotten_and_those_with_jobs_are_not(queue):
    beat(queue, "w1", A)
    newer = queue.add(v=SCHEMA_VERSION + 1)
    queue.release(*queue.claim(max_v=SCHEMA_VERSION + 1).jobs)
    assert change(queue, "restart") == 0
    assert queue.redis.zrange(queue.tag.readers, 0, -1) == [f"standard:v{SCHEMA_VERSION + 1}".encode()]
    assert queue.claimed(max_v=SCHEMA_VERSION + 1) == [newer]


def test_a_call_lets_a_bounded_number_of_jobs_go_and_the_next_calls_the_others(queue):
    for _ in range(120):
        queue.add()
    for job in queue.claim(fingerprint=A).jobs:
        queue.release(job, 0, 1)
    assert [change(queue, "restart") for _ in range(3)] == [100, 20, 0]
    assert len(queue.claimed(fingerprint=B)) == 120


@pytest.mark.parametrize("from_scratch", [False, True])
def test_live_readers_hear_that_a_job_begins_from_scratch(queue, from_scratch):
    """By a chunk that follows on nothing: they read the log again, older ones too."""
    job_id = interrupted(queue, A, max_attempts=1)
    if from_scratch:
        queue.claim(fingerprint=A)
        queue.recover("w", blamed=True)
    with queue.redis.pubsub(ignore_subscribe_messages=True) as messages:
        messages.subscribe(queue.tag.chan(job_id))
        assert messages.get_message(timeout=5) is None
        if from_scratch:
            ((entry_id, _),) = queue.redis.xrange(queue.tag.dead)
            queue.call(requeue_dead(queue.tag, entry_id.decode(), from_scratch=True))
        else:
            change(queue, "restart")
        message = messages.get_message(timeout=5)
    event = parse_event(message["data"])
    assert isinstance(event, Chunk)
    assert (event.start, event.text) == (2**53 - 1, "")
    assert queue.record(job_id).status().restarts == 1


def test_two_models_under_one_name_are_told_of_each_other(queue):
    assert beat(queue, "w1", A).others == ()
    assert beat(queue, "w2", B).others == (A,)
    assert beat(queue, "w1", A).others == (B,)
    queue.redis.zadd(queue.tag.readers, {f"{name}:{B}": 1 for name in ("interactive", "standard", "batch")})
    assert beat(queue, "w1", A).others == ()
