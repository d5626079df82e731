"""Workers of one model with unequal memory serve it as the larger one alone would."""

import pytest

from headrace import JobFailed

from .conftest import leaked_keys

pytestmark = [pytest.mark.serial, pytest.mark.timeout(300)]

SMALL, LARGE = {"num_pages": 20}, {"num_pages": 400}
"""One page of each is scratch space: the small worker holds 304 tokens."""

PROMPT = "def split(text, separator): return " * 40


def test_a_small_worker_fails_and_shortens_nothing_that_a_larger_one_can_run(redis_url, redis, start_worker):
    start_worker(redis_url, options=SMALL)
    client = start_worker(redis_url, options=LARGE).client
    prompts = client.enqueue_many({"prompt": PROMPT, "model": "demo", "max_tokens": 2} for _ in range(6))
    answers = client.enqueue_many(
        {"prompt": "x", "model": "demo", "max_tokens": 600, "ignore_eos": True} for _ in range(3)
    )
    short = client.enqueue_many({"prompt": "x", "model": "demo", "max_tokens": 4} for _ in range(6))
    assert {job.result(timeout_s=100).state for job in (*prompts, *short)} == {"succeeded"}
    assert min(job.result(timeout_s=100).usage.prompt_tokens for job in prompts) > 320
    assert {job.result(timeout_s=100).usage.completion_tokens for job in answers} == {600}
    assert leaked_keys(redis) == []


def test_alone_a_small_worker_runs_to_what_it_holds_and_refuses_the_rest_with_a_sentence(
    redis_url, start_worker
):
    client = start_worker(redis_url, options=SMALL).client
    with pytest.raises(JobFailed, match=r"prompt: the prompt has [0-9]+ tokens; at most 304 fit here"):
        client.enqueue(PROMPT, model="demo", max_tokens=2).result(timeout_s=100)
    long_answer = client.enqueue("x", model="demo", max_tokens=600, ignore_eos=True).result(timeout_s=100)
    assert 200 < long_answer.usage.completion_tokens < 304
