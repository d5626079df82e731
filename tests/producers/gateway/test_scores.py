"""How likely a model finds given continuations: the log-probabilities that the weights give."""

import json

import pytest

from headrace import AsyncClient, Client, InvalidJob, JobFailed
from headrace.schemas.events import JobState

from ...support.processes import kill_engine_of
from ...support.waiting import wait_until
from .test_prompt_logprobs import weights
from .test_requests import error_of

pytestmark = [pytest.mark.serial, pytest.mark.xdist_group("gateway"), pytest.mark.usefixtures("worker")]

PROMPT = "A dictionary is a mapping from keys to"
ENDINGS = [" values", " a list of strings", "日本"]


def assert_of_the_weights(scores, prompt_ids, endings) -> None:
    for score, ids in zip(scores, endings, strict=True):
        rows = weights()[1]([*prompt_ids, *ids])[len(prompt_ids) - 1 :]
        assert score.token_ids == tuple(ids)
        assert score.logprobs == pytest.approx(
            [row[each] for row, each in zip(rows, ids, strict=False)], abs=1e-4
        )
        assert score.logprob == pytest.approx(sum(score.logprobs))
        assert score.is_greedy == all(row[each] == max(row) for row, each in zip(rows, ids, strict=False))


async def test_both_clients_score_texts_and_token_ids_as_the_weights_do(stack_redis, jobs: Client) -> None:
    encode, logprobs = weights()
    prompt_ids, endings = encode(PROMPT), [encode(ending) for ending in ENDINGS]
    best = max(enumerate(logprobs(prompt_ids)[-1]), key=lambda each: each[1])[0]
    assert_of_the_weights(jobs.score(PROMPT, ENDINGS, model="demo"), prompt_ids, endings)
    scores = jobs.score(prompt_ids, [*endings, [best]], model="demo", job_class="batch", timeout_s=90)
    assert_of_the_weights(scores, prompt_ids, [*endings, [best]])
    assert scores[-1].is_greedy
    async with AsyncClient(stack_redis.url) as client:
        (score,) = await client.score(PROMPT, ENDINGS[0], model="demo", prompt_logprobs=0)
    assert (score.token_ids, score.is_greedy) == (tuple(endings[0]), None)
    with pytest.raises(InvalidJob, match=r"continuations\[1\]: must be a text or its token ids, not int"):
        jobs.score(PROMPT, ["a", 5], model="demo")


def test_a_job_says_how_likely_its_continuation_is(http, jobs: Client) -> None:
    asked = {"model": "demo", "prompt": PROMPT, "continuation": ENDINGS[0]}
    job = jobs.job(http.post("/v1/jobs", json=asked).json()["id"])
    result = job.result(90)
    assert (result.text, result.token_ids, list(job.stream())) == ("", (), [])
    told = http.get(f"/v1/jobs/{job.id}").json()["result"]["prompt_logprobs"]
    assert [each["token_id"] for each in told] == weights()[0](ENDINGS[0])
    assert result.usage.prompt_tokens == len(weights()[0](PROMPT)) + len(told)


def test_only_the_prompt_is_truncated(jobs: Client) -> None:
    encode = weights()[0]
    scores = jobs.score(PROMPT, ENDINGS, model="demo", truncate_prompt_tokens=2)
    assert_of_the_weights(scores, encode(PROMPT)[-2:], [encode(ending) for ending in ENDINGS])


def test_killed_while_it_is_scored_it_is_scored_again(jobs: Client, worker) -> None:
    encode, ending = weights()[0], ENDINGS[1]
    worker.write_text("30")  # the step lasts until the kill
    try:
        job = jobs.enqueue(PROMPT, model="demo", continuation=ending)
        wait_until(lambda: job.status().state is JobState.RUNNING)
        kill_engine_of(job, jobs)
    finally:
        worker.unlink()
    told = job.result(90).prompt_logprobs
    assert told == jobs.enqueue(PROMPT, model="demo", continuation=ending).result(90).prompt_logprobs
    assert [each.token_id for each in told] == encode(ending)
    wait_until(jobs.workers)


def test_one_that_is_waited_for_in_vain_is_cancelled(jobs: Client, unserved: str) -> None:
    job = jobs.enqueue(PROMPT, model=unserved, continuation=ENDINGS[0], deadline_s=300)
    job.cancel()
    assert job.status().state is JobState.CANCELLED


def test_one_that_leaves_no_room_fails_by_name(jobs: Client) -> None:
    with pytest.raises(JobFailed, match="tokens"):
        jobs.score(PROMPT, " values" * 20_000, model="demo")


def test_other_endpoints_refuse_to_score(http) -> None:
    body = {"model": "demo", "prompt": "a", "continuation": "b"}
    error = error_of(http.post("/v1/completions", json=body), 400)
    assert error["param"] == "continuation"
    assert "/v1/jobs" in json.dumps(error)
