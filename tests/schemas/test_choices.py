"""Several answers to one prompt: what they cost, how many there may be, and their seeds."""

import hashlib
import json

import pytest

from headrace import InvalidJob
from headrace.schemas.choices import MAX_CHOICES, seed_of_choice
from headrace.schemas.events import Chunk, parse_event
from headrace.schemas.settings.queue import Limits, QueueSettings

pytestmark = pytest.mark.leaves_jobs


def test_a_claim_counts_the_prompt_once_and_the_output_and_last_page_of_each_answer(queue):
    queue.add(n=4)  # 16 tokens of prompt and four times 16 of output; pages have 16
    assert queue.claimed(budget=16 + 4 * 16 + 3 * 16 - 1) == []
    (job,) = queue.claim(budget=16 + 4 * 16 + 3 * 16).jobs
    assert (job.cost_tokens, job.choices) == (128, 4)


def test_what_is_known_of_the_answers_is_not_counted_again(queue):
    job = queue.start(n=4)
    assert queue.release(job, 0, 32, choice=1).status == "ok"
    (again,) = queue.claim(output_ratio=0.5).jobs
    assert again.cost_tokens == 16 + 32 + (64 - 32) // 2 + 3 * 16


def test_answers_beyond_a_workers_memory_cost_no_more_than_all_of_it(queue):
    queue.add(n=8)
    (job,) = queue.claim(budget=64, capacity_tokens=48, pool_tokens=64).jobs
    assert job.cost_tokens == 64


def test_a_job_takes_a_slot_for_each_answer(queue):
    first, second = queue.add(n=3), queue.add()
    assert queue.claimed(slots=3) == [first]
    assert queue.claimed(slots=1) == [second]


def test_more_answers_than_the_setting_allows_are_refused_with_its_name(queue):
    queue.settings = QueueSettings(limits=Limits(max_choices=2))
    queue.add(n=2)
    with pytest.raises(InvalidJob, match="max_choices = 2") as refused:
        queue.add(n=3)
    assert refused.value.field == "n"


@pytest.mark.parametrize("choice", [-1, MAX_CHOICES])
def test_a_log_that_names_an_answer_that_no_job_has_is_damaged(choice):
    chunk = Chunk(offset=1, text="a", token_ids=(5,)).model_dump() | {"choice": choice}
    ended = {"choice": choice, "finish_reason": "stop"}
    end = {"offset": 1, "end": "succeeded", "finish_reason": "stop", "choices": [ended]}
    for event in (chunk, end):
        with pytest.raises(ValueError):
            parse_event(json.dumps(event))


def test_the_seeds_are_the_protocols():
    digest = hashlib.blake2b(b"5/3", digest_size=8).digest()
    assert (seed_of_choice(5, 0), seed_of_choice(5, 3)) == (5, int.from_bytes(digest, "big") >> 1)
