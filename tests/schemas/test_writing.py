"""What a worker writes: once, in order, by its owner only, and with one end."""

import pytest
from redis.exceptions import ResponseError

from headrace.schemas.events import Chunk, End, parse_event
from headrace.schemas.scripts import Segment, advance, heartbeat

pytestmark = pytest.mark.leaves_jobs


def test_tokens_are_logged_under_their_offsets_and_end_once(queue):
    job = queue.start()
    assert queue.advance(job, 0, 3).status == "ok"
    assert queue.advance(job, 3, 5).status == "ok"
    assert queue.finish(job, 5, 6).status == "ok"
    assert queue.log(job.job_id) == ["3-0", "5-0", "6-0", "6-1"]
    assert queue.state(job.job_id) == "succeeded"


def test_a_repeated_chunk_is_taken_once(queue):
    job = queue.start()
    for _ in range(3):
        assert queue.advance(job, 0, 3).status == "ok"
    assert queue.log(job.job_id) == ["3-0"]


@pytest.mark.parametrize(("start", "offset"), [(4, 6), (2, 6), (9, 12)])
def test_a_chunk_that_does_not_follow_on_is_refused_with_the_offset_to_go_on_from(queue, start, offset):
    job = queue.start()
    queue.advance(job, 0, 3)
    answer = queue.advance(job, start, offset)
    assert (answer.status, answer.log_offset) == ("behind", 3)
    assert queue.log(job.job_id) == ["3-0"]


def test_redis_itself_refuses_a_token_out_of_order(queue, redis):
    job = queue.start()
    queue.advance(job, 0, 3)
    with pytest.raises(ResponseError, match="equal or smaller"):
        redis.xadd(queue.tag.out(job.job_id), {"event": "x"}, id="3-0")


def test_a_log_that_lost_its_tail_is_written_again_from_there(queue, redis):
    job = queue.start()
    queue.advance(job, 0, 3)
    queue.advance(job, 3, 6)
    redis.delete(queue.tag.out(job.job_id))
    redis.hset(queue.tag.job(job.job_id), "offset", 0)
    assert queue.advance(job, 6, 8).log_offset == 0
    assert queue.advance(job, 0, 8).status == "ok"
    assert queue.log(job.job_id) == ["8-0"]


def test_a_worker_that_lost_its_job_can_write_nothing(queue):
    zombie = queue.start()
    queue.advance(zombie, 0, 3)
    queue.lapse(zombie.job_id)
    (heir,) = queue.claim().jobs
    assert heir.offset == 3
    for answer in (queue.advance(zombie, 3, 5), queue.finish(zombie, 3, 5), queue.release(zombie)):
        assert answer.status == "fenced"
    assert queue.log(zombie.job_id) == ["3-0"]
    assert queue.advance(heir, 3, 4).status == "ok"


def test_the_same_worker_claiming_again_has_another_fence(queue):
    first = queue.start()
    queue.release(first)
    (second,) = queue.claim().jobs
    assert second.fence != first.fence
    assert queue.advance(first, 0, 1).status == "fenced"


def test_a_second_finish_changes_nothing_and_says_so(queue):
    job = queue.start()
    queue.finish(job, 0, 2)
    before = queue.record(job.job_id).fields
    assert queue.finish(job, 0, 2, state="failed").status == "already"
    assert queue.record(job.job_id).fields == before
    assert queue.log(job.job_id) == ["2-0", "2-1"]


def test_the_end_clears_the_queue_and_starts_the_retention(queue, redis):
    job = queue.start()
    queue.finish(job, 0, 2)
    tag = queue.tag
    assert not redis.exists(tag.lane("standard", "default"), tag.leases, tag.queued_bytes)
    for key in (tag.job(job.job_id), tag.out(job.job_id)):
        assert 0 < redis.pttl(key) <= 86_400_000


def test_chunks_and_end_are_published_as_they_are_logged(queue, redis):
    job = queue.start()
    with redis.pubsub(ignore_subscribe_messages=True) as pubsub:
        pubsub.subscribe(queue.tag.chan(job.job_id))
        pubsub.get_message(timeout=5)
        queue.advance(job, 0, 2, "hi")
        queue.finish(job, 2, 3)
        events = []
        while len(events) < 3:
            message = pubsub.get_message(timeout=5)
            if message is not None:
                events.append(parse_event(message["data"]))
    assert [type(event) for event in events] == [Chunk, Chunk, End]
    assert events[0].text == "hi"


def test_a_job_whose_record_is_gone_is_reported_gone(queue, redis):
    job = queue.start()
    redis.delete(queue.tag.job(job.job_id))
    assert queue.advance(job, 0, 1).status == "gone"
    assert queue.finish(job).status == "gone"
    assert not redis.exists(queue.tag.leases)
    redis.delete(queue.tag.lane("standard", "default"))


def test_a_damaged_log_answers_for_itself_while_its_neighbours_go_on(queue, redis):
    queue.add(), queue.add()
    broken, fine = queue.claim().jobs
    redis.set(queue.tag.out(broken.job_id), "not a stream")
    segments = [queue.segment(broken, 0, 1), queue.segment(fine, 0, 1)]
    answers = queue.call(advance(queue.tag, 60_000, segments))
    assert [answer.status for answer in answers] == ["damaged", "ok"]
    assert queue.finish(broken, 0, 0, state="failed").status == "ok"


def test_an_empty_segment_renews_the_lease_only(queue, redis):
    job = queue.start()
    redis.zadd(queue.tag.leases, {job.job_id: 1})
    answers = queue.call(advance(queue.tag, 60_000, [Segment(job.job_id, job.fence, 0, 0)]))
    assert [answer.status for answer in answers] == ["ok"]
    assert queue.upkeep().recovered == 0
    assert queue.log(job.job_id) == []


def test_cancel_and_deadline_of_a_running_job_are_seen_with_its_next_tokens(queue):
    cancelled, expired = queue.start(), queue.start(deadline_s=100)
    assert queue.cancel(cancelled.job_id) == "cancelling"
    queue.make_due(expired.job_id, queue.tag.deadlines)
    assert queue.upkeep().expired == 0
    assert queue.advance(cancelled, 0, 1).status == "cancelled"
    assert queue.advance(expired, 0, 1).status == "expired"
    queue.cancel(expired.job_id)
    assert queue.advance(expired, 1, 2).status == "cancelled"


def test_a_full_redis_refuses_new_jobs_and_lets_work_go_on(own_redis):
    from headrace import BrokerUnavailable
    from headrace.schemas.redis.connection import connect

    from .conftest import Queue

    with connect(own_redis.url) as redis:
        queue = Queue(redis)
        running, waiting = queue.start(), queue.add()
        size = redis.dbsize()
        redis.config_set("maxmemory", "1")
        with pytest.raises(BrokerUnavailable, match="out of memory"):
            queue.add()
        assert redis.dbsize() == size
        assert queue.advance(running, 0, 2).status == "ok"
        assert queue.claimed() == [waiting]
        assert queue.call(heartbeat(queue.tag, "w", {"model": "m"})) == (None, ())
        assert queue.release(running, 2, 3).status == "ok"
        (running,) = queue.claim().jobs
        queue.advance(running, 3, 3, lease_ms=-1)
        assert queue.upkeep().recovered == 1
        (running,) = queue.claim().jobs
        assert queue.finish(running, 3, 4).status == "ok"
        assert queue.cancel(waiting) == "cancelling"
        assert queue.recover("w", blamed=False) == 1
        assert queue.state(waiting) == "cancelled"
