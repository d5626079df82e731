"""One job that kills its engine process, among forty good ones."""

import json

import pytest

from .conftest import assert_whole, leaked_keys

pytestmark = [pytest.mark.serial, pytest.mark.timeout(300)]


def good(number: int) -> dict[str, object]:
    return {
        "prompt": f"Return item {number} of",
        "model": "demo",
        "max_tokens": 40 + 5 * (number % 9),
        "ignore_eos": True,
        "seed": number,
        "max_attempts": 3,
    }


def test_a_job_that_kills_its_worker_dies_alone(redis_url, redis, start_worker, expected_tokens):
    from headrace import JobFailed
    from headrace.producers.dead import read_dead

    worker = start_worker(redis_url, engines=2, engine="poison_engine.py")
    jobs = [worker.client.enqueue(**good(number)) for number in range(20)]
    culprit = worker.client.enqueue(prompt_token_ids=[7] * 5, model="demo", max_attempts=3)
    jobs += [worker.client.enqueue(**good(number)) for number in range(20, 40)]
    attempts = [job.result(timeout_s=200).attempts for job in jobs]
    with pytest.raises(JobFailed, match="crashed"):
        culprit.result(timeout_s=200)
    print(f"deaths that neighbours of the culprit saw: {sorted(attempts)}")
    assert max(attempts) <= 1
    expected = expected_tokens.of_each([good(number) for number in range(40)])
    assert [assert_whole(redis, job) for job in jobs] == expected
    (letter,) = worker.client._run(read_dead(worker.client._operations, "demo", 10))
    history = json.loads(letter.history)
    assert (letter.job_id, letter.cause, letter.attempts) == (culprit.id, "crashed", 3)
    assert [death["how"] for death in history] == ["killed by SIGSEGV"] * 3
    assert len({death["worker"] for death in history}) == 3
    assert leaked_keys(redis) == []
