"""Several answers of one job, whose worker dies while they are streamed."""

import pytest

from headrace.schemas.choices import seed_of_choice

from .conftest import log_of

pytestmark = [pytest.mark.serial, pytest.mark.timeout(300)]


def test_four_streamed_answers_go_on_byte_for_byte_when_their_engine_is_killed(
    redis_url, redis, start_worker, expected_tokens
):
    worker = start_worker(redis_url, engines=2, step_s=0.02)
    fields = {
        "prompt": "A generator is " * 12,
        "model": "demo",
        "max_tokens": 80,
        "temperature": 1.0,
        "seed": 5,
    }
    job = worker.client.enqueue(**fields, n=4)
    seen: list[list[int]] = [[] for _ in range(4)]
    texts, ended, killed, offset = [""] * 4, {}, False, 0
    for chunk in job.stream():
        assert chunk.choice not in ended
        assert chunk.offset == offset + len(chunk.token_ids)
        offset = chunk.offset
        seen[chunk.choice] += chunk.token_ids
        texts[chunk.choice] += chunk.text
        if chunk.finish_reason:
            ended[chunk.choice] = chunk.finish_reason
        if not killed and all(len(answer) >= 5 for answer in seen):
            killed = worker.kill_engine(job.status().worker)
            assert killed
    result = job.result(timeout_s=60)
    assert result.attempts == 1
    assert [list(choice.token_ids) for choice in result.choices] == seen
    assert [choice.text for choice in result.choices] == texts
    assert [choice.finish_reason for choice in result.choices] == [ended[number] for number in range(4)]
    assert result.usage.completion_tokens == sum(map(len, seen)) == offset
    alone = [{**fields, "seed": seed_of_choice(5, number)} for number in range(4)]
    assert seen == expected_tokens.of_each(alone)
    chunks, (end,) = log_of(redis, job)
    assert (end.offset, end.choices) == (offset, ())
    assert sum(chunk.finish_reason is not None for chunk in chunks) == 4
