from typing import Any

from openai.types import chat
from tests.support.openai_types import conforms

from headrace import Chunk, JobResult
from headrace.producers.openai.chat import ChatStream, chat_body
from headrace.schemas.answers import AnswerFormat
from headrace.schemas.errors import JobCancelled, JobFailed
from headrace.schemas.events import JobState, TokenLogprob


def test_an_answer_is_openais_type(result: JobResult) -> None:
    body = conforms(chat.ChatCompletion, chat_body(result, "m", 7))
    (choice,) = body.choices
    assert (body.id, body.created, body.model) == (f"chatcmpl-{result.job_id}", 7, "m")
    assert (choice.message.role, choice.message.content) == ("assistant", "héy")
    assert (choice.finish_reason, body.system_fingerprint) == ("stop", "00ff00ff00ff00ff")
    first, second = choice.logprobs.content
    assert (first.token, first.bytes, len(first.top_logprobs)) == ("hé", [104, 195, 169], 2)
    assert second.top_logprobs == []
    assert (body.usage.prompt_tokens, body.usage.completion_tokens, body.usage.total_tokens) == (3, 2, 5)
    assert body.usage.prompt_tokens_details.cached_tokens == 1


def test_the_bytes_of_the_tokens_join_to_the_text() -> None:
    tokens = tuple(
        TokenLogprob(
            token_id=at, token="\ufffd", logprob=-1.0, top=((9, "\ufffd", -2.0),), hex=one, top_hex=("f0",)
        )
        for at, one in enumerate(f"{byte:02x}" for byte in "é😀".encode())
    )
    spelt = JobResult(
        job_id="id", state=JobState.SUCCEEDED, text="é😀", finish_reason="stop", logprobs=tokens
    )
    content = chat_body(spelt, "m", 0)["choices"][0]["logprobs"]["content"]
    assert bytes(byte for token in content for byte in token["bytes"]).decode() == "é😀"
    assert content[0]["top_logprobs"][0]["bytes"] == [0xF0]


def test_a_stream_says_who_speaks_then_what_then_why_it_ends(result: JobResult, chunks: list[Chunk]) -> None:
    stream = ChatStream(result.job_id, "m", 7)
    events = [*stream.start(), *(e for chunk in chunks for e in stream.chunk(chunk)), *stream.end(result)]
    read = [conforms(chat.ChatCompletionChunk, event) for event in events]
    deltas = [event.choices[0].delta for event in read]
    assert (deltas[0].role, deltas[0].content) == ("assistant", "")
    assert "".join(delta.content or "" for delta in deltas) == result.text
    assert [event.choices[0].finish_reason for event in read] == [None, None, None, "stop"]
    assert {event.id for event in read} == {f"chatcmpl-{result.job_id}"}
    assert not any("usage" in event for event in events)
    told = [token for event in events if (p := event["choices"][0]["logprobs"]) for token in p["content"]]
    assert told == chat_body(result, "m", 7)["choices"][0]["logprobs"]["content"]


def test_usage_is_null_in_all_events_but_the_last(result: JobResult, chunks: list[Chunk]) -> None:
    stream = ChatStream(result.job_id, "m", 7, include_usage=True)
    *events, last = [*stream.start(), *stream.chunk(chunks[1]), *stream.end(result)]
    assert [event["usage"] for event in events] == [None, None, None]
    assert last["choices"] == []
    assert conforms(chat.ChatCompletionChunk, last).usage.total_tokens == 5


def test_token_ids_come_with_the_answer_if_asked_for(result: JobResult, chunks: list[Chunk]) -> None:
    body = chat_body(result, "m", 7, return_token_ids=True)
    conforms(chat.ChatCompletion, body, extensions={"token_ids"})
    stream = ChatStream(result.job_id, "m", 7, return_token_ids=True)
    events = [event for chunk in chunks for event in stream.chunk(chunk)]
    assert [token for event in events for token in event["choices"][0]["token_ids"]] == [1, 2]
    assert body["choices"][0]["token_ids"] == [1, 2]


def test_a_chunk_without_text_makes_no_event(result: JobResult) -> None:
    assert ChatStream(result.job_id, "m", 7).chunk(Chunk(offset=1, text="", token_ids=(1,))) == []


def test_a_stream_of_a_job_that_failed_ends_with_an_error() -> None:
    stream = ChatStream("id", "m", 7)
    (failed,) = stream.failed(JobFailed("id", "crashed", "cuda:3 fell off host gpu-17"))
    assert failed["error"]["code"] == "crashed"
    assert "gpu-17" not in failed["error"]["message"]
    (cancelled,) = stream.failed(JobCancelled("id"))
    assert cancelled["error"]["code"] == "job_cancelled"


CALLED = (
    "<think>\nHm.\n</think>\n\nLet me look.\n"
    '<tool_call>\n{"name": "f", "arguments": {"x": "é"}}\n</tool_call>'
    '<tool_call>{"name": "g"}</tool_call>'
)


def called(finish_reason: str = "stop") -> JobResult:
    return JobResult(
        job_id="01kg9y2v6mf3c8s5w4x7z0qabd.0.m",
        state=JobState.SUCCEEDED,
        text=CALLED,
        finish_reason=finish_reason,
        format=FORMAT,
    ).read()


FORMAT = AnswerFormat(tools="hermes", reasoning="think")


def test_calls_and_reasoning_are_parts_of_the_message() -> None:
    result = called()
    choice = conforms(
        chat.ChatCompletion, chat_body(result, "m", 7), extensions={"reasoning", "reasoning_content"}
    ).choices[0]
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", "Let me look.")
    assert choice.message.reasoning == choice.message.reasoning_content == result.reasoning == "Hm."
    assert [(c.id, c.function.name, c.function.arguments) for c in choice.message.tool_calls] == [
        (call.id, call.function.name, call.function.arguments) for call in result.tool_calls or ()
    ]
    assert [call.function.arguments for call in choice.message.tool_calls] == ['{"x": "é"}', "{}"]
    assert len({call.id for call in choice.message.tool_calls}) == 2
    assert called("length").finish_reason == "length"


def test_a_stream_of_calls_joins_to_the_message_wherever_it_is_cut() -> None:
    result = called()

    def events(size: int) -> list[dict[str, Any]]:
        stream = ChatStream(result.job_id, "m", 7)
        pieces = [CALLED[at : at + size] for at in range(0, len(CALLED), size)]
        chunks = [
            Chunk(offset=at, text=piece, token_ids=(at,), format=FORMAT if at == 1 else None)
            for at, piece in enumerate(pieces, 1)
        ]
        return [*stream.start(), *(e for chunk in chunks for e in stream.chunk(chunk)), *stream.end(result)]

    for size in (1, 2, 7, 1000):
        content, thought, calls = "", "", {}
        for event in events(size):
            conforms(chat.ChatCompletionChunk, event, extensions={"reasoning", "reasoning_content"})
            (choice,) = event["choices"]
            content += choice["delta"].get("content") or ""
            thought += choice["delta"].get("reasoning") or ""
            for call in choice["delta"].get("tool_calls") or ():
                if "id" in call:
                    calls[call["index"]] = call | {"function": dict(call["function"])}
                else:
                    calls[call["index"]]["function"]["arguments"] += call["function"]["arguments"]
        message = chat_body(result, "m", 7)["choices"][0]["message"]
        assert (content, thought) == (message["content"], message["reasoning"])
        assert [calls[at] for at in sorted(calls)] == [
            {"index": at, **call} for at, call in enumerate(message["tool_calls"])
        ]
        assert choice["finish_reason"] == "tool_calls"
