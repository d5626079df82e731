"""The witness of the other tests sees each kind of damage."""

import json

import pytest

from headrace.schemas.keys import Tag

from .conftest import JOBS
from .witness import violations

TAG = Tag("demo")
GREEDY = 0


@pytest.fixture
async def played(scene, redis, uninterrupted):
    status, jobs = await scene.play(cancel=False)
    assert (status, violations(redis, TAG, jobs, uninterrupted)) == (0, [])
    return jobs


async def test_every_kind_of_damage_is_seen(played, redis, uninterrupted):
    job = played[GREEDY]
    record, log = TAG.job(job.job_id), TAG.out(job.job_id)
    end = redis.xrevrange(log, count=1)[0][0].decode()
    some = redis.xrange(log)[3][0].decode()
    tokens = JOBS[GREEDY]["max_tokens"]
    outbox = redis.xrange(TAG.outbox)[0]

    def seen(word):
        found = violations(redis, TAG, played, uninterrupted)
        assert any(word in sentence for sentence in found), (word, found)

    redis.xadd(TAG.outbox, outbox[1])
    seen("the outbox has 2 entries")
    redis.xtrim(TAG.outbox, maxlen=0)
    seen("the outbox has 0 entries")
    redis.set(f"{TAG.base}:notes", "x")
    seen("notes stays for ever")
    redis.persist(record)
    seen(f"{record} stays for ever")
    redis.xadd(TAG.retry("batch"), {"job": job.job_id})
    seen("is not empty")
    redis.hset(record, "fence", "1.x")
    seen("still has ['fence']")
    job.tokens.append(1)
    seen("its reader saw")
    event = {"offset": tokens, "end": "succeeded", "text": "", "finish_reason": "stop"}
    redis.xadd(log, {"event": json.dumps(event)}, id=f"{tokens}-2")
    seen("its log has 2 ends")
    redis.xdel(log, end)
    redis.xdel(log, some)
    seen("its log goes on at")
    redis.hset(record, "state", "failed")
    seen("ended failed, not succeeded")
    redis.hset(record, "state", "running")
    seen("lost: it is still running")
    redis.delete(record)
    seen("lost: it has no record")
    redis.hset(TAG.job("another"), "state", "queued")
    seen("another is nobody's")
    redis.delete(TAG.job("another"), f"{TAG.base}:notes", log)
