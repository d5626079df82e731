"""Jobs that kill their engine process, among good ones."""

import json

import pytest

from headrace import Client
from headrace.schemas.keys import Tag
from headrace.schemas.scripts import ClaimRequest, claim, recover, run
from headrace.schemas.settings.queue import QueueSettings

from ..support.waiting import wait_until
from .conftest import assert_whole, leaked_keys

pytestmark = [pytest.mark.serial, pytest.mark.timeout(600)]

TAG = Tag("demo")
END_S = 400
POISON, LATE_POISON = [7] * 5, [8] * 5
"""See `poison_engine.py`."""


def good(number: int) -> dict[str, object]:
    return {
        "prompt": f"Return item {number} of",
        "model": "demo",
        "max_tokens": 40 + 5 * (number % 9),
        "ignore_eos": True,
        "seed": number,
        "max_attempts": 3,
    }


def assert_dead(client, redis, culprits, attempts: int) -> None:
    """Each culprit is dead-lettered for as many deaths that it died alone, and nobody else is."""
    from headrace import JobFailed

    for culprit in culprits:
        with pytest.raises(JobFailed, match="crashed"):
            culprit.result(timeout_s=END_S)
    letters = {letter.job_id: letter for letter in client.admin.dead_letters("demo")}
    assert set(letters) == {culprit.id for culprit in culprits}
    for letter in letters.values():
        history = json.loads(letter.history)
        alone = [death["worker"] for death in history if death["alone"]]
        assert (letter.cause, letter.attempts, len(alone)) == ("crashed", attempts, attempts)
        assert {death["how"] for death in history} == {"killed by SIGSEGV"}
        assert len({death["worker"] for death in history}) == len(history)
    assert leaked_keys(redis) == []


def test_a_job_that_kills_its_worker_dies_alone(redis_url, redis, start_worker, expected_tokens):
    worker = start_worker(redis_url, engines=2, engine="poison_engine.py")
    jobs = [worker.client.enqueue(**good(number)) for number in range(20)]
    culprit = worker.client.enqueue(prompt_token_ids=POISON, model="demo", max_attempts=3)
    jobs += [worker.client.enqueue(**good(number)) for number in range(20, 40)]
    assert {job.result(timeout_s=END_S).attempts for job in jobs} == {0}
    assert_dead(worker.client, redis, [culprit], 3)
    expected = expected_tokens.of_each([good(number) for number in range(40)])
    assert [assert_whole(redis, job) for job in jobs] == expected


@pytest.mark.parametrize("engines", [1, 2])
def test_several_culprits_at_once_and_one_after_another_die_alone(
    redis_url, redis, start_worker, expected_tokens, engines
):
    worker = start_worker(redis_url, engines=engines, engine="poison_engine.py")
    requests = [{**good(number), "max_tokens": 300, "job_class": "batch"} for number in range(4)]
    jobs = [worker.client.enqueue(**request) for request in requests]
    wait_until(lambda: all(job.status().offset for job in jobs))
    late = worker.client.enqueue(prompt_token_ids=LATE_POISON, model="demo", max_attempts=2, ignore_eos=True)
    culprits = [late, worker.client.enqueue(prompt_token_ids=POISON, model="demo", max_attempts=2)]
    wait_until(lambda: worker.events("engine_died"))
    requests.append(good(4))
    jobs.append(worker.client.enqueue(**requests[-1]))
    culprits.append(worker.client.enqueue(prompt_token_ids=POISON, model="demo", max_attempts=2))
    assert {job.result(timeout_s=END_S).attempts for job in jobs} == {0}
    assert_dead(worker.client, redis, culprits, 2)
    assert [assert_whole(redis, job) for job in jobs] == expected_tokens.of_each(requests)
    assert worker.events("engine_crash_loop") == []


def test_a_busy_worker_gives_way_to_suspects(redis_url, redis, start_worker, expected_tokens):
    """Nobody else is there to try them, and its jobs would go on for long."""
    with Client(redis_url, check_model=False) as client:
        suspects = [client.enqueue(**good(number)) for number in range(2)]
        request = ClaimRequest(worker="ghost", nonce="n", lease_ms=600_000, budget_tokens=10**6, slots=2)
        assert len(run(redis, claim(TAG, request)).jobs) == 2
        worker = start_worker(redis_url, step_s=0.015)
        requests = [{**good(number), "max_tokens": 320} for number in range(2, 8)]
        busy = [client.enqueue(**request) for request in requests]
        wait_until(lambda: all(job.status().offset for job in busy))
        assert run(redis, recover(TAG, "ghost", QueueSettings(), blamed=True))[:2] == (2, 0)
        assert [job.result(timeout_s=END_S).attempts for job in suspects] == [0, 0]
        assert [job.result(timeout_s=END_S).attempts for job in busy] == [0] * 6
        assert {redis.hget(TAG.job(job.id), "released") for job in busy} == {b"trial"}
        assert len(worker.events("gives_way_to_suspects")) == 1
        seen = [assert_whole(redis, job) for job in suspects + busy]
        assert seen[:4] == expected_tokens.of_each([*map(good, range(2)), *requests[:2]])
