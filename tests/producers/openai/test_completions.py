from typing import Any

import pytest
from openai.types import Completion
from tests.support.openai_types import conforms

from headrace import Chunk, InvalidJob, JobResult
from headrace.producers.openai.completions import (
    MAX_PROMPTS,
    CompletionStream,
    about_prompts,
    completion_body,
    completion_jobs,
)
from headrace.schemas.events import JobState, PromptLogprob, TokenLogprob


def test_an_answer_is_openais_type(result: JobResult) -> None:
    body = completion_body(result, model="m", created=7)
    read = conforms(Completion, body)
    assert (read.id, read.choices[0].text) == (f"cmpl-{result.job_id}", "héy")
    assert body["choices"][0]["logprobs"] == {
        "tokens": ["hé", "y"],
        "token_logprobs": [-0.5, -1.0],
        "top_logprobs": [{"hé": -0.5, "z": -2.0}, {"y": -1.0}],
        "text_offset": [0, 2],
    }


def test_each_prompt_of_a_request_is_a_job_and_a_choice(result: JobResult) -> None:
    assert completion_jobs({"prompt": ["a", "b"], "max_tokens": 2}) == [
        {"prompt": "a", "max_tokens": 2},
        {"prompt": "b", "max_tokens": 2},
    ]
    assert completion_jobs({"prompt": [[1], [2, 3]]}) == [
        {"prompt_token_ids": [1]},
        {"prompt_token_ids": [2, 3]},
    ]
    other = result.model_copy(update={"job_id": "other", "text": "ho", "logprobs": None})
    body = conforms(Completion, completion_body(result, other, model="m", created=7))
    assert body.id == f"cmpl-{result.job_id}"
    assert [(choice.index, choice.text) for choice in body.choices] == [(0, "héy"), (1, "ho")]
    assert (body.usage.total_tokens, body.usage.prompt_tokens_details.cached_tokens) == (10, 2)


def test_a_request_has_a_bounded_number_of_prompts() -> None:
    with pytest.raises(InvalidJob, match=str(MAX_PROMPTS)):
        completion_jobs({"prompt": ["x"] * (MAX_PROMPTS + 1)})


def test_a_stream_holds_the_text_the_logprobs_and_the_end(result: JobResult, chunks: list[Chunk]) -> None:
    stream = CompletionStream(result.job_id, "m", 7, include_usage=True)
    *events, last = [
        *stream.start(),
        *(e for chunk in chunks for e in stream.chunk(chunk)),
        *stream.end(result),
    ]
    choices = [event["choices"][0] for event in events]
    assert "".join(choice["text"] for choice in choices) == result.text
    assert [choice["finish_reason"] for choice in choices] == [None, None, "stop"]
    told = [choice["logprobs"] for choice in choices if choice["logprobs"]]
    whole = completion_body(result, model="m", created=7)["choices"][0]["logprobs"]
    assert {name: [entry for part in told for entry in part[name]] for name in whole} == whole
    assert [event["usage"] for event in events] == [None] * 3
    for event in (*events, last):
        conforms(Completion, _with_reasons(event))
    assert (last["choices"], last["usage"]["total_tokens"]) == ([], 5)


def _with_reasons(event: dict[str, Any]) -> dict[str, Any]:
    """The event without null reasons: OpenAI's server sends them, but its type has none."""
    choices = [choice | {"finish_reason": choice["finish_reason"] or "stop"} for choice in event["choices"]]
    return event | {"choices": choices}


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
    body = completion_body(parts(*tokens, text=text), model="m", created=7)
    assert body["choices"][0]["logprobs"]["text_offset"] == offsets


def test_parts_of_characters_are_told_apart_by_their_bytes() -> None:
    logprobs = completion_body(parts(b"\xc3", text=""), model="m", created=7)["choices"][0]["logprobs"]
    assert logprobs["tokens"] == ["bytes:\\xc3"]
    assert logprobs["top_logprobs"] == [{"bytes:\\xc3": -1.0, "bytes:\\xf0": -2.0}]


PROMPT = (
    PromptLogprob(token_id=5, token="To"),
    PromptLogprob(token_id=6, token=" be", logprob=-3.0, top=((7, " do", -0.25), (8, " go", -1.5))),
)


@pytest.mark.parametrize(
    ("body", "job"),
    [
        ({"prompt": "To be", "echo": True}, {"prompt": "To be"}),
        (
            {"prompt": "To be", "echo": True, "logprobs": 1, "max_tokens": 0},
            {"prompt": "To be", "logprobs": 1, "max_tokens": 0, "prompt_logprobs": 1},
        ),
        (
            {"prompt": "x", "echo": True, "max_tokens": 0},
            {"prompt": "x", "max_tokens": 0, "prompt_logprobs": 0},
        ),
        ({"prompt": [5, 6], "echo": True}, {"prompt_token_ids": [5, 6], "prompt_logprobs": 0}),
        (
            {"prompt": "x", "logprobs": 1, "prompt_logprobs": 2},
            {"prompt": "x", "logprobs": 1, "prompt_logprobs": 2},
        ),
        ({"prompt": "x", "prompt_logprobs": False, "echo": False}, {"prompt": "x"}),
    ],
)
def test_echo_asks_for_what_the_answer_needs_of_the_prompt(body: dict[str, Any], job: dict[str, Any]) -> None:
    assert completion_jobs(body) == [job]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"prompt": "x", "echo": 1}, "echo"),
        ({"prompt": "x", "echo": True, "logprobs": 1, "stream": True}, "echo"),
        ({"prompt": [1], "echo": True, "stream": True}, "echo"),
        ({"prompt": "x", "prompt_logprobs": 1, "stream": True}, "prompt_logprobs"),
        ({"prompt": "x", "prompt_logprobs": True}, "prompt_logprobs"),
    ],
)
def test_what_can_not_be_said_of_a_prompt_is_refused_by_name(body: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidJob) as refused:
        completion_jobs(body)
    assert refused.value.field == field


@pytest.mark.parametrize("prompt", ["To be", [5, 6]])
def test_an_echo_begins_with_the_prompt_and_its_log_probabilities(result: JobResult, prompt: object) -> None:
    told = result.model_copy(update={"prompt_logprobs": PROMPT})
    asked = {"prompt": prompt, "echo": True, "logprobs": 1, "prompt_logprobs": 2}
    body = completion_body(told, model="m", created=7, prompts=about_prompts(asked))
    (choice,) = body["choices"]
    # OpenAI's server says null of the first token, which its type doesn't know.
    known = {name: entries[1:] for name, entries in choice["logprobs"].items()}
    conforms(Completion, body | {"choices": [choice | {"logprobs": known}]}, extensions=["prompt_logprobs"])
    assert choice["text"] == "To behéy"
    assert choice["logprobs"] == {
        "tokens": ["To", " be", "hé", "y"],
        "token_logprobs": [None, -3.0, -0.5, -1.0],
        "top_logprobs": [None, {" do": -0.25, " be": -3.0}, {"hé": -0.5, "z": -2.0}, {"y": -1.0}],
        "text_offset": [0, 2, 5, 7],
    }
    assert choice["prompt_logprobs"] == [
        None,
        {
            "6": {"logprob": -3.0, "rank": None, "decoded_token": " be"},
            "7": {"logprob": -0.25, "rank": 1, "decoded_token": " do"},
            "8": {"logprob": -1.5, "rank": 2, "decoded_token": " go"},
        },
    ]


def test_an_echoed_stream_begins_with_the_prompt(result: JobResult, chunks: list[Chunk]) -> None:
    (about,) = about_prompts({"prompt": "To be ", "echo": True, "stream": True})
    stream = CompletionStream(result.job_id, "m", 7, prompt=about)
    events = [*stream.start(), *(event for chunk in chunks for event in stream.chunk(chunk))]
    assert "".join(event["choices"][0]["text"] for event in events) == "To be héy"
