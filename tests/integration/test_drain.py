"""Workers that end while they have work: at once, after a grace, one of several, or not in time."""

import os
import signal
import threading
import time

import pytest

from headrace import Client, WorkerNotFound
from headrace.schemas.keys import tag_of

from ..support.waiting import WAIT_S, wait_until
from .conftest import assert_whole
from .reply_proxy import ReplyProxy

pytestmark = [pytest.mark.serial, pytest.mark.timeout(180)]

STEP_S = 0.03
"""A token takes this long: what happens in the middle of a job has seconds."""

LONG = {"prompt": "A generator is", "model": "demo", "max_tokens": 120, "ignore_eos": True, "seed": 1}
SHORT = {**LONG, "max_tokens": 30}


def running(worker, job) -> bool:
    return job.status().offset > 10


def start_on_one_of_two(start_worker, redis_url, fields, options=None):
    """Two workers, a job, and which of them runs it: (its worker, the other, the job)."""
    workers = [start_worker(redis_url, options=options, step_s=STEP_S) for _ in range(2)]
    job = workers[0].client.enqueue(**fields)
    wait_until(lambda: running(workers[0], job))
    mine = [job.status().worker in {e["engine"] for e in w.events("engine_ready")} for w in workers]
    assert sorted(mine) == [False, True]
    return workers[mine.index(True)], workers[mine.index(False)], job


def test_a_drained_worker_hands_over_and_is_not_started_again(
    redis_url, redis, start_worker, expected_tokens, cli
):
    fields = {**LONG, "max_tokens": 320}
    old, _, job = start_on_one_of_two(start_worker, redis_url, fields)
    old_id = job.status().worker
    wait_until(lambda: next(w for w in old.client.workers() if w.id == old_id).running == 1)
    seen: list[int] = []
    reader = threading.Thread(target=lambda: [seen.extend(c.token_ids) for c in job.stream()])
    reader.start()
    asked = time.monotonic()
    assert cli("workers", "drain", old_id[:-1]).output == f"{old_id} hands over its 1 jobs\n"
    wait_until(lambda: job.status().worker not in {old_id, None})
    before = job.status().offset
    wait_until(lambda: job.status().offset > before)
    print(f"from the command to the stream's next tokens elsewhere: {time.monotonic() - asked:.1f} s")
    assert old.process.wait(timeout=30) == 0
    assert old.events("engine_died") == []
    reader.join(timeout=WAIT_S)
    assert seen == assert_whole(redis, job) == expected_tokens(**fields)
    assert job.status().attempts == 0


def test_a_worker_told_to_finish_ends_its_jobs_and_takes_no_more(redis_url, start_worker):
    worker = start_worker(redis_url, options={"finish_s": 60}, step_s=STEP_S)
    job = worker.client.enqueue(**LONG)
    wait_until(lambda: running(worker, job))
    worker.process.send_signal(signal.SIGTERM)
    wait_until(lambda: worker.events("draining"))
    for _ in range(2):  # exchanges with Redis: the first may have begun before, with a claim
        before = job.status().offset
        wait_until(lambda before=before: job.status().offset > before or job.status().state.terminal)
    late = worker.client.enqueue(**SHORT)
    assert worker.process.wait(timeout=60) == 0
    assert (job.status().state, late.status().state) == ("succeeded", "queued")
    late.cancel()


def test_what_has_not_finished_in_its_grace_is_handed_over(redis_url, redis, start_worker, expected_tokens):
    first, second, job = start_on_one_of_two(start_worker, redis_url, LONG, {"finish_s": 0.2})
    assert first.stop() == 0
    assert job.result(timeout_s=60).attempts == 0
    assert assert_whole(redis, job) == expected_tokens(**LONG)
    assert second.events("engine_died") == []


def test_a_worker_that_ends_gives_back_what_a_claim_took_whose_reply_was_lost(
    redis_url, redis, start_worker, expected_tokens
):
    fields = {**SHORT, "prompt": "Nobody hears of this", "seed": 6}
    with ReplyProxy(redis_url) as proxy, Client(redis_url) as client:
        first = start_worker(proxy.url)
        (engine,) = wait_until(client.workers)
        proxy.lose(fields["prompt"].encode(), meanwhile=lambda: os.kill(engine.pid, signal.SIGTERM))
        job = client.enqueue(**fields)
        wait_until(lambda: first.events("engine_ended"))
        assert (job.status().state, job.status().attempts) == ("queued", 0)
        assert [event["released"] for event in first.events("engine_drained")] == [1]
        start_worker(redis_url)
        assert job.result(timeout_s=60).attempts == 0
        assert redis.hget(tag_of(job.id).job(job.id), "history") is None
        assert assert_whole(redis, job) == expected_tokens(**fields)


def test_a_hand_over_that_hangs_is_cut_short_and_its_jobs_go_on_elsewhere(
    redis_url, redis, start_worker, expected_tokens
):
    first, second, job = start_on_one_of_two(start_worker, redis_url, LONG, {"drain_s": 1})
    os.kill(first.engine_of(job.status().worker), signal.SIGSTOP)
    assert first.stop() == 0
    assert first.events("engine_killed")
    assert job.result(timeout_s=60).attempts == 1
    assert assert_whole(redis, job) == expected_tokens(**LONG)
    assert second.events("engine_died") == []


def test_a_stuck_engine_process_is_found_and_its_jobs_go_on(redis_url, redis, start_worker, expected_tokens):
    worker = start_worker(redis_url, engines=2, options={"wedged_s": 3, "lease_s": 60}, step_s=STEP_S)
    job = worker.client.enqueue(**LONG)
    wait_until(lambda: running(worker, job))
    os.kill(worker.engine_of(job.status().worker), signal.SIGSTOP)
    assert job.result(timeout_s=60).attempts == 1
    assert worker.events("engine_wedged")
    assert assert_whole(redis, job) == expected_tokens(**LONG)


def test_draining_nobody_says_who_there_is(redis_url, start_worker):
    worker = start_worker(redis_url)
    wait_until(worker.client.workers)
    with pytest.raises(WorkerNotFound, match="'nobody' does not name one worker; alive: worker-"):
        worker.client.admin.drain_worker("nobody")
