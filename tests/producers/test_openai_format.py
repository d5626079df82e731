from typing import Any

import pytest

from headrace import InvalidJob, Job, JobResult
from headrace.producers.openai.format import CHAT_URL, COMPLETIONS_URL, job_fields, response_body
from headrace.schemas.events import JobState, TokenLogprob, Usage


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
        (CHAT_URL, {"response_format": {"type": "text"}}, {"response_format": "text"}),
        (CHAT_URL, {"tool_choice": "auto", "tools": [{"name": "f"}]}, {"tools": [{"name": "f"}]}),
        (CHAT_URL, {"tool_choice": "none", "parallel_tool_calls": True, "tools": []}, {}),
        (CHAT_URL, {"top_k": -1, "modalities": ["text"], "verbosity": "medium", "stop": []}, {}),
        (CHAT_URL, {"chat_template_kwargs": {}, "prompt_cache_key": "x", "length_penalty": 1.0}, {}),
        (COMPLETIONS_URL, {"best_of": 1, "echo": False, "suffix": "", "prompt_logprobs": None}, {}),
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
        ("/v1/embeddings", {}, "url"),
        (COMPLETIONS_URL, {"model": "m", "prompt": ["a", "b"]}, "prompt"),
        (COMPLETIONS_URL, {"model": "m", "prompt": "x", "best_of": 2}, "best_of"),
        (COMPLETIONS_URL, {"model": "m", "prompt": "x", "echo": True}, "echo"),
        (CHAT_URL, {"model": "m", "messages": [{"role": "user", "content": "x"}], "top_k": -2}, "top_k"),
        (
            CHAT_URL,
            {"model": "m", "messages": [{"role": "user", "content": "x"}], "tool_choice": "required"},
            "tool_choice",
        ),
    ],
)
def test_what_does_not_exist_here_is_refused_by_name(url: str, body: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidJob) as caught:
        Job.make(**job_fields(url, body))
    assert caught.value.field == field


@pytest.fixture
def result() -> JobResult:
    return JobResult(
        job_id="id",
        state=JobState.SUCCEEDED,
        text="héy",
        token_ids=(1, 2),
        finish_reason="stop",
        usage=Usage(prompt_tokens=3, cached_tokens=1, completion_tokens=2),
        logprobs=(
            TokenLogprob(token_id=1, token="hé", logprob=-0.5, top=((1, "hé", -0.5), (9, "z", -2.0))),
            TokenLogprob(token_id=2, token="y", logprob=-1.0),
        ),
    )


def test_a_chat_completion_has_openais_form(result: JobResult) -> None:
    body = response_body(CHAT_URL, "m", result)
    (choice,) = body["choices"]
    assert (body["object"], body["id"], body["model"]) == ("chat.completion", "id", "m")
    assert choice["message"] == {"role": "assistant", "content": "héy"}
    assert choice["finish_reason"] == "stop"
    first, second = choice["logprobs"]["content"]
    assert (first["token"], first["bytes"], len(first["top_logprobs"])) == ("hé", [104, 195, 169], 2)
    assert second["top_logprobs"] == []
    assert body["usage"]["total_tokens"] == 5
    assert body["usage"]["prompt_tokens_details"] == {"cached_tokens": 1}


def test_a_completion_has_openais_form(result: JobResult) -> None:
    body = response_body(COMPLETIONS_URL, "m", result)
    (choice,) = body["choices"]
    assert (body["object"], choice["text"]) == ("text_completion", "héy")
    assert choice["logprobs"] == {
        "tokens": ["hé", "y"],
        "token_logprobs": [-0.5, -1.0],
        "top_logprobs": [{"hé": -0.5, "z": -2.0}, {}],
        "text_offset": [0, 2],
    }


def parts(*tokens: bytes, text: str) -> JobResult:
    return JobResult(
        job_id="id",
        state=JobState.SUCCEEDED,
        text=text,
        finish_reason="stop",
        logprobs=tuple(
            TokenLogprob(
                token_id=at,
                token=token.decode(errors="replace"),
                logprob=-1.0,
                top=((at, token.decode(errors="replace"), -1.0), (99, "\ufffd", -2.0)),
                hex=token.hex(),
                top_hex=(token.hex(), "f0"),
            )
            for at, token in enumerate(tokens)
        ),
    )


def test_the_bytes_of_a_chats_tokens_join_to_its_text() -> None:
    spelt = parts(*(bytes([byte]) for byte in "é😀".encode()), text="é😀")
    content = response_body(CHAT_URL, "m", spelt)["choices"][0]["logprobs"]["content"]
    assert bytes(byte for token in content for byte in token["bytes"]).decode() == "é😀"
    assert content[0]["top_logprobs"][1]["bytes"] == [0xF0]


@pytest.mark.parametrize(
    ("tokens", "text", "offsets"),
    [
        ([b"\xc3", b"\xa9", b"\xf0", b"\x9f\x98", b"\x80", b"</s>"], "é😀", [0, 0, 1, 1, 1, 2]),
        ([b" there", b" was", b"."], "there was.", [0, 5, 9]),
        ([b" there", b" was"], " there was", [0, 6]),
        ([b"a", b"<|im_end|>", b"b"], "ab", [0, 1, 1]),
        ([b"a", b"b"], "a", [0, 1]),
    ],
)
def test_text_offsets_count_the_characters_of_the_text(
    tokens: list[bytes], text: str, offsets: list[int]
) -> None:
    logprobs = response_body(COMPLETIONS_URL, "m", parts(*tokens, text=text))["choices"][0]["logprobs"]
    assert logprobs["text_offset"] == offsets


def test_parts_of_characters_are_told_apart_by_their_bytes() -> None:
    logprobs = response_body(COMPLETIONS_URL, "m", parts(b"\xc3", text=""))["choices"][0]["logprobs"]
    assert logprobs["tokens"] == ["bytes:\\xc3"]
    assert logprobs["top_logprobs"] == [{"bytes:\\xc3": -1.0, "bytes:\\xf0": -2.0}]
