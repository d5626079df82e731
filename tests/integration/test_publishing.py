"""When tokens leave an engine process."""

from headrace.schemas.events import Chunk, parse_event
from headrace.schemas.keys import Tag


def test_a_step_during_which_the_last_exchange_was_answered_is_published_at_once(
    redis_url, redis, start_worker
):
    worker = start_worker(redis_url, engine="slow_engine.py", options={"flush_s": 0})
    job = worker.client.enqueue(model="demo", prompt="A list is", max_tokens=30, ignore_eos=True)
    assert len(job.result(timeout_s=60).token_ids) == 30
    events = [parse_event(fields[b"event"]) for _, fields in redis.xrange(Tag("demo").out(job.id))]
    assert [len(event.token_ids) for event in events if isinstance(event, Chunk)] == [1] * 30
