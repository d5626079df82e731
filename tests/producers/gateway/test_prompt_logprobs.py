"""What a prompt is worth to the model: its tokens' log-probabilities, as jobs have them."""

import math
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import pytest

import headrace
from headrace import Client, InvalidJob, JobFailed
from headrace.schemas.events import PromptLogprob
from headrace.schemas.settings.queue import Limits

from ...support.processes import kill_engine_of
from ...support.waiting import wait_until

pytestmark = [pytest.mark.serial, pytest.mark.xdist_group("gateway"), pytest.mark.usefixtures("worker")]

PROMPT = "A dictionary is a mapping from keys to values: café – naïve."


@cache
def weights() -> tuple[Callable[[str], list[int]], Callable[[Sequence[int]], list[list[float]]]]:
    """transformers' tokenizer of the built-in model, and its log-probabilities."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = Path(headrace.__file__).parent / "workers" / "demo_model"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    def logprobs(ids: Sequence[int]) -> list[list[float]]:
        with torch.inference_mode():
            return model(torch.tensor([list(ids)])).logits[0].log_softmax(-1).tolist()

    return lambda text: tokenizer(text)["input_ids"], logprobs


def assert_of_the_weights(entries: Sequence[PromptLogprob], ids: Sequence[int], top: int) -> None:
    assert [entry.token_id for entry in entries] == list(ids)
    assert (entries[0].logprob, entries[0].top) == (None, ())
    for entry, here in zip(entries[1:], weights()[1](ids), strict=False):
        assert entry.logprob == pytest.approx(here[entry.token_id], abs=1e-4)
        best = sorted(here, reverse=True)[:top]
        assert [value for _, _, value in entry.top] == pytest.approx(best, abs=1e-4)


@pytest.mark.parametrize("max_tokens", [0, 4])
def test_a_result_has_those_that_the_weights_give(jobs: Client, max_tokens: int):
    asked = {"model": "demo", "prompt_logprobs": 3, "temperature": 0, "ignore_eos": True}
    result = jobs.enqueue(PROMPT, max_tokens=max_tokens, **asked).result(timeout_s=60)
    assert result.usage.completion_tokens == len(result.token_ids) == max_tokens
    assert result.finish_reason == "length"
    assert result.prompt_logprobs is not None
    assert_of_the_weights(result.prompt_logprobs, weights()[0](PROMPT), 3)
    assert b"".join(entry.bytes for entry in result.prompt_logprobs).decode() == PROMPT


def test_a_job_that_does_not_ask_has_none(jobs: Client):
    assert jobs.enqueue(PROMPT, model="demo", max_tokens=1).result(timeout_s=60).prompt_logprobs is None


def test_a_killed_engine_loses_none_of_them(jobs: Client, slow_steps):
    ids = weights()[0](PROMPT * 8)
    asked = {"model": "demo", "prompt_logprobs": 0, "seed": 3, "ignore_eos": True, "logprobs": 1}
    with slow_steps():
        job = jobs.enqueue(prompt_token_ids=ids, max_tokens=60, **asked)
        wait_until(lambda: job.status().offset > 3)
        kill_engine_of(job, jobs)
    result = job.result(timeout_s=90)
    assert len(result.token_ids) == 60
    assert_of_the_weights(result.prompt_logprobs or (), ids, 0)
    whole = jobs.enqueue(prompt_token_ids=ids, max_tokens=60, **asked).result(timeout_s=60)
    assert whole.token_ids == result.token_ids
    assert math.fsum(entry.logprob or 0 for entry in whole.prompt_logprobs or ()) == pytest.approx(
        math.fsum(entry.logprob or 0 for entry in result.prompt_logprobs or ()), abs=1e-3
    )


def test_more_than_the_setting_allows_is_refused_by_name(stack_redis, jobs: Client):
    with pytest.raises(InvalidJob, match=r"prompt_logprobs: must be at most max_logprobs = 20 \(got 21\)"):
        jobs.enqueue(PROMPT, model="demo", prompt_logprobs=21)
    with pytest.raises(InvalidJob, match=r"^logprobs: must be at most max_logprobs = 20"):
        jobs.enqueue(PROMPT, model="demo", logprobs=21)
    with pytest.raises(InvalidJob, match=r"max_tokens: must be at least 1, or 0 with prompt_logprobs"):
        jobs.enqueue(PROMPT, model="demo", max_tokens=0)
    few = Limits(max_logprobs=5, max_prompt_logprobs=30)
    with Client(stack_redis.url, limits=few) as client:
        said = r"2 beside each of 11 tokens make 33 log-probabilities; at most max_prompt_logprobs = 30"
        with pytest.raises(InvalidJob, match=said):
            client.enqueue(prompt_token_ids=[5] * 11, model="demo", prompt_logprobs=2)


def test_a_worker_refuses_a_prompt_that_turns_out_too_long_for_them(stack_redis):
    with Client(stack_redis.url, limits=Limits(max_logprobs=1024)) as client:
        job = client.enqueue(PROMPT, model="demo", prompt_logprobs=1000)
        with pytest.raises(JobFailed, match="prompt_logprobs: must be at most max_logprobs = 20"):
            job.result(timeout_s=60)


def test_echo_gives_several_prompts_as_an_evaluation_sends_them(http):
    texts = [PROMPT, "A list is"]
    ids = [weights()[0](text) for text in texts]
    asked = {"model": "demo", "prompt": ids, "temperature": 0, "max_tokens": 1, "logprobs": 1, "echo": True}
    answer = http.post("/v1/completions", json={**asked, "seed": 1234}).json()
    for text, tokens, choice in zip(texts, ids, answer["choices"], strict=True):
        given, logprobs = choice["logprobs"], weights()[1](tokens)
        assert choice["text"].startswith(text)
        assert len(given["token_logprobs"]) == len(tokens) + 1
        assert given["token_logprobs"][0] is given["top_logprobs"][0] is None
        expected = [here[token] for here, token in zip(logprobs, tokens[1:], strict=False)]
        assert given["token_logprobs"][1:-1] == pytest.approx(expected, abs=1e-4)
        best = [max(here) for here in logprobs[:-1]]
        assert [max(top.values()) for top in given["top_logprobs"][1:-1]] == pytest.approx(best, abs=1e-4)
    assert answer["usage"]["completion_tokens"] == 2


def test_echo_without_a_token_is_the_prompt(http):
    asked = {"model": "demo", "prompt": PROMPT, "echo": True, "max_tokens": 0}
    (choice,) = http.post("/v1/completions", json=asked).json()["choices"]
    assert (choice["text"], choice["finish_reason"], choice["logprobs"]) == (PROMPT, "length", None)


def test_a_chat_gives_them_by_id_as_vllm_does(http):
    messages = [{"role": "user", "content": "What is a list?"}]
    asked = {"model": "demo", "messages": messages, "prompt_logprobs": 1, "max_tokens": 1}
    answer = http.post("/v1/chat/completions", json=asked).json()
    first, *rest = answer["prompt_logprobs"]
    assert first is None
    assert len(rest) == answer["usage"]["prompt_tokens"] - 1
    assert all(1 in {each["rank"] for each in place.values()} for place in rest)


def test_a_job_over_http_shows_them_only_if_it_asked(http, jobs: Client):
    for asked in ({"prompt_logprobs": 1}, {}):
        job = http.post("/v1/jobs", json={"model": "demo", "prompt": PROMPT, "max_tokens": 1, **asked}).json()
        known = jobs.job(job["id"]).result(timeout_s=60)
        result = http.get(f"/v1/jobs/{job['id']}").json()["result"]
        assert ("prompt_logprobs" in result) is bool(asked)
        if asked:
            shown = [PromptLogprob.model_validate(entry) for entry in result["prompt_logprobs"]]
            assert tuple(shown) == known.prompt_logprobs
