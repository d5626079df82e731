from typing import Any

import pytest
from openai.types import Completion
from tests.support.openai_types import conforms

from headrace import Chunk, InvalidJob, JobResult
from headrace.producers.openai.completions import (
    MAX_PROMPTS,
    CompletionStream,
    completion_body,
    completion_jobs,
)
from headrace.schemas.events import JobState, TokenLogprob


def test_an_answer_is_openais_type(result: JobResult) -> None:
    body = completion_body(result, model="m", created=7)
    read = conforms(Completion, body)
    assert (read.id, read.choices[0].text) == (f"cmpl-{result.job_id}", "héy")
    assert body["choices"][0]["logprobs"] == {
        "tokens": ["hé", "y"],
        "token_logprobs": [-0.5, -1.0],
        "top_logprobs": [{"hé": -0.5, "z": -2.0}, {}],
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
