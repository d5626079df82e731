from typing import Any

import pytest
from openai.types.responses import Response
from tests.support.openai_types import conforms

from headrace import InvalidJob, Job, JobResult
from headrace.producers.openai.format import (
    CHAT_URL,
    COMPLETIONS_URL,
    EMBEDDINGS_URL,
    RESPONSES_URL,
    job_fields,
    response_body,
)

ASKED = {"model": "m", "messages": [{"role": "user", "content": "x"}]}
CHOICE = {"type": "function", "function": {"name": "f"}}


@pytest.mark.parametrize(
    ("url", "body", "fields"),
    [
        (COMPLETIONS_URL, {"prompt": "x", "max_tokens": 3}, {"prompt": "x", "max_tokens": 3}),
        (COMPLETIONS_URL, {"prompt": [1, 2], "stream": True}, {"prompt_token_ids": [1, 2]}),
        (
            COMPLETIONS_URL,
            {"prompt": "x", "user": "u", "seed": None},
            {"prompt": "x", "metadata": {"user": "u"}},
        ),
        (COMPLETIONS_URL, {"prompt": "x", "logprobs": 2}, {"prompt": "x", "logprobs": 2}),
        (CHAT_URL, {"max_completion_tokens": 3}, {"max_tokens": 3}),
        (CHAT_URL, {"logprobs": True, "top_logprobs": 4}, {"logprobs": 4}),
        (CHAT_URL, {"logprobs": True}, {"logprobs": 0}),
        (CHAT_URL, {"logprobs": False, "top_logprobs": 0}, {}),
        (CHAT_URL, {"response_format": {"type": "text"}}, {"response_format": {"type": "text"}}),
        (CHAT_URL, {"tool_choice": "auto", "tools": [{"name": "f"}]}, {"tools": [{"name": "f"}]}),
        (CHAT_URL, {"tool_choice": "auto", "parallel_tool_calls": True, "tools": []}, {}),
        (CHAT_URL, {"tool_choice": "none", "tools": []}, {"tool_choice": "none"}),
        (CHAT_URL, {"parallel_tool_calls": False}, {"parallel_tool_calls": False}),
        (CHAT_URL, {"top_k": -1, "modalities": ["text"], "verbosity": "medium", "stop": []}, {}),
        (CHAT_URL, {"chat_template_kwargs": {}, "prompt_cache_key": "x", "length_penalty": 1.0}, {}),
        (CHAT_URL, {"service_tier": "flex"}, {"job_class": "batch"}),
        (CHAT_URL, {"service_tier": "priority", "job_class": "standard"}, {"job_class": "standard"}),
        (CHAT_URL, {"service_tier": "auto", "store": True, "n": 3}, {"n": 3}),
        (CHAT_URL, {"reasoning_effort": "low"}, {"reasoning_effort": "low"}),
        (
            CHAT_URL,
            {"safety_identifier": "a", "user": "b", "metadata": {"user": "mine"}},
            {"metadata": {"safety_identifier": "a", "user": "mine"}},
        ),
        (COMPLETIONS_URL, {"prompt": [[1, 2]], "return_token_ids": True}, {"prompt_token_ids": [1, 2]}),
        (
            COMPLETIONS_URL,
            {"prompt": ["x"], "min_p": 0.5, "top_k": 3},
            {"prompt": "x", "min_p": 0.5, "top_k": 3},
        ),
        (COMPLETIONS_URL, {"best_of": 1, "echo": False, "suffix": "", "prompt_logprobs": None}, {}),
        (
            EMBEDDINGS_URL,
            {"input": ["x"], "dimensions": 3, "encoding_format": "base64", "user": "u"},
            {"prompt": "x", "embed": {"dimensions": 3}, "metadata": {"user": "u"}, "stream": False},
        ),
        (EMBEDDINGS_URL, {"input": [1, 2]}, {"prompt_token_ids": [1, 2], "embed": {}, "stream": False}),
    ],
)
def test_a_body_becomes_the_arguments_of_a_job(
    url: str, body: dict[str, Any], fields: dict[str, Any]
) -> None:
    assert job_fields(url, body) == fields


def test_string_keys_of_logit_bias_are_token_ids() -> None:
    job = Job.make(**job_fields(COMPLETIONS_URL, {"prompt": "x", "model": "m", "logit_bias": {"5": -100}}))
    assert job.logit_bias == {5: -100}


@pytest.mark.parametrize(
    ("url", "body", "field"),
    [
        ("/v1/classify", {}, "url"),
        (EMBEDDINGS_URL, {"model": "m", "input": ["a", "b"]}, "input"),
        (EMBEDDINGS_URL, {"model": "m", "input": "a", "temperature": 1}, "temperature"),
        (COMPLETIONS_URL, {"model": "m", "prompt": ["a", "b"]}, "prompt"),
        (COMPLETIONS_URL, {"model": "m", "prompt": []}, "prompt"),
        (COMPLETIONS_URL, {"model": "m", "prompt": ["a", [1]]}, "prompt"),
        (COMPLETIONS_URL, {"model": "m", "prompt": [True]}, "prompt"),
        (COMPLETIONS_URL, {"model": "m", "prompt": "x", "logprobs": True}, "logprobs"),
        (COMPLETIONS_URL, {"model": "m", "prompt": "x", "best_of": 2}, "best_of"),
        (COMPLETIONS_URL, {"model": "m", "prompt": "x", "n": 129}, "n"),
        (COMPLETIONS_URL, {"model": "m", "prompt": "x", "top_logprobs": 2}, "top_logprobs"),
        (COMPLETIONS_URL, {"model": "m", "prompt": "x", "echo": "yes"}, "echo"),
        (CHAT_URL, ASKED | {"top_k": -2}, "top_k"),
        (CHAT_URL, ASKED | {"tool_choice": "required"}, "tool_choice"),
        (CHAT_URL, ASKED | {"tool_choice": "any", "tools": [{"name": "f"}]}, "tool_choice"),
        (CHAT_URL, ASKED | {"tool_choice": CHOICE, "tools": [{"name": "g"}]}, "tool_choice"),
        (CHAT_URL, ASKED | {"tool_choice": CHOICE["function"], "tools": [{"name": "f"}]}, "tool_choice"),
        (CHAT_URL, ASKED | {"tools": [{"type": "web_search"}]}, "tools.0"),
        (CHAT_URL, ASKED | {"tools": [{"name": "f"}, {"name": "a b"}]}, "tools.1"),
        (CHAT_URL, ASKED | {"tools": [{"function": {"name": "f", "parameters": []}}]}, "tools.0"),
        (CHAT_URL, ASKED | {"tools": [{"name": "f", "parameters": {"properties": ["x"]}}]}, "tools.0"),
        (CHAT_URL, ASKED | {"tools": [{"name": "f", "parameters": {"required": True}}]}, "tools.0"),
        (CHAT_URL, ASKED | {"tools": [{"name": "f", "parameters": {"required": [1]}}]}, "tools.0"),
        (CHAT_URL, ASKED | {"tools": [{"name": "f"}] * 513}, "tools"),
        (CHAT_URL, ASKED | {"parallel_tool_calls": 7}, "parallel_tool_calls"),
        (CHAT_URL, ASKED | {"reasoning_effort": "huge"}, "reasoning_effort"),
        (COMPLETIONS_URL, {"model": "m", "prompt": "x", "tool_choice": "none"}, "job"),
        (CHAT_URL, ASKED | {"top_logprobs": 2}, "top_logprobs"),
        (CHAT_URL, ASKED | {"logprobs": 2}, "logprobs"),
        (CHAT_URL, ASKED | {"max_tokens": 2, "max_completion_tokens": 3}, "max_tokens"),
        (CHAT_URL, ASKED | {"service_tier": "scale"}, "service_tier"),
        (CHAT_URL, ASKED | {"service_tier": ["flex"]}, "service_tier"),
        (CHAT_URL, ASKED | {"user": {}}, "user"),
        (CHAT_URL, ASKED | {"audio": {"voice": "x"}}, "audio"),
        (CHAT_URL, ASKED | {"modalities": ["audio"]}, "modalities"),
        (CHAT_URL, ASKED | {"response_format": {"type": "json"}}, "response_format.type"),
        (CHAT_URL, ASKED | {"max_completion_tokens": 0}, "max_tokens"),
        (CHAT_URL, ASKED | {"max_token": 3}, "max_token"),
    ],
)
def test_what_does_not_exist_here_is_refused_by_name(url: str, body: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidJob) as caught:
        Job.make(**job_fields(url, body))
    assert caught.value.field == field


def test_a_response_is_a_line_of_its_own(result: JobResult) -> None:
    asked = {"model": "m", "input": "x", "instructions": "Be brief.", "store": True}
    assert [message["role"] for message in job_fields(RESPONSES_URL, asked)["messages"]] == ["system", "user"]
    body = conforms(Response, response_body(RESPONSES_URL, "m", result, asked))
    assert (body.id, body.instructions, body.output_text) == (f"resp_{result.job_id}", "Be brief.", "héy")
    for name, value in (("background", True), ("previous_response_id", "resp_1")):
        with pytest.raises(InvalidJob, match=name):
            job_fields(RESPONSES_URL, asked | {name: value})


@pytest.mark.parametrize("url", [CHAT_URL, COMPLETIONS_URL])
def test_a_line_may_ask_for_its_token_ids(result: JobResult, url: str) -> None:
    (choice,) = response_body(url, "m", result, {"return_token_ids": True})["choices"]
    assert choice["token_ids"] == [1, 2]
    with pytest.raises(InvalidJob, match="return_token_ids"):
        job_fields(url, {"return_token_ids": "yes"})


def test_an_unknown_field_is_answered_with_the_one_that_was_meant() -> None:
    with pytest.raises(InvalidJob, match="did you mean max_tokens"):
        job_fields(CHAT_URL, {"max_token": 3})
