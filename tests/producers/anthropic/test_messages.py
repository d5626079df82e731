import importlib
import json
from typing import Any

import pytest
from tests.support.openai_types import conforms, fields_of

from headrace import Chunk, HeadraceError, InvalidJob, Job, JobResult
from headrace.producers.anthropic.errors import anthropic_error, error_body
from headrace.producers.anthropic.messages import MessageStream, count_body, message_body
from headrace.producers.anthropic.request import FIELDS, count_fields, message_fields
from headrace.schemas.answers import AnswerFormat
from headrace.schemas.errors import BrokerUnavailable, JobFailed, RateLimited, UnknownModel

ASKED = {"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": "Hello"}]}


@pytest.fixture(scope="module")
def types() -> Any:
    """Anthropic's own. They take a second to import, in every process that collects tests."""
    return importlib.import_module("anthropic.types")


def test_every_field_of_anthropics_requests_has_been_thought_about(types: Any) -> None:
    asked = fields_of(types.message_create_params.MessageCreateParams)
    assert asked | fields_of(types.message_count_tokens_params.MessageCountTokensParams) <= FIELDS.known
    fates = [
        FIELDS.passed,
        FIELDS.read.keys(),
        FIELDS.neutral.keys(),
        FIELDS.refused.keys(),
        set(FIELDS.hints),
    ]
    assert sum(map(len, fates)) == len(frozenset().union(*fates))


def test_a_request_becomes_the_arguments_of_a_job() -> None:
    block = {"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}
    body = ASKED | {
        "system": [block, block],
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "Hello"}]},
            {"role": "assistant", "content": "Hi."},
            {"role": "user", "content": "And?"},
        ],
        "stop_sequences": ["\n"],
        "metadata": {"user_id": "u"},
        "cache_control": {"type": "ephemeral"},
        "thinking": {"type": "adaptive"},
        "temperature": 0.5,
        "stream": True,
    }
    assert message_fields(body) == {
        "model": "m",
        "max_tokens": 5,
        "temperature": 0.5,
        "stop": ["\n"],
        "metadata": {"user": "u"},
        "messages": [
            {"role": "system", "content": "Be brief.\nBe brief."},
            {"role": "user", "content": "Hello"},
            {"role": "assistant", "content": "Hi."},
            {"role": "user", "content": "And?"},
        ],
    }
    Job.make(**message_fields(body))


def test_tokens_are_counted_by_a_job_of_one_token() -> None:
    body = {name: value for name, value in ASKED.items() if name != "max_tokens"}
    assert count_fields(body)["max_tokens"] == 1
    with pytest.raises(InvalidJob, match="max_tokens"):
        count_fields(ASKED)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"max_tokens": None}, "max_tokens"),
        ({"messages": []}, "messages"),
        ({"messages": "Hello"}, "messages"),
        ({"messages": ["Hello"]}, "messages.0"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.role"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "messages.0.content.0"),
        ({"messages": [{"role": "user", "content": "x", "name": "n"}]}, "messages.0.name"),
        (
            {"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]},
            "messages.1.role",
        ),
        ({"system": 7}, "system"),
        ({"stop_sequences": "x"}, "stop_sequences"),
        ({"metadata": {"user": "u"}}, "metadata.user"),
        ({"metadata": {"user_id": 7}}, "metadata.user_id"),
        ({"tools": [{"name": "bash", "type": "bash_20250124"}]}, "tools.0.type"),
        ({"tools": [{"name": "f"}]}, "tools.0.input_schema"),
        ({"tool_choice": {"type": "some"}}, "tool_choice.type"),
        (
            {"messages": [{"role": "user", "content": [{"type": "tool_result"}]}]},
            "messages.0.content.0.tool_use_id",
        ),
        ({"thinking": {"type": "hard"}}, "thinking.type"),
        ({"container": "c"}, "container"),
        ({"max_token": 5}, "max_token"),
    ],
)
def test_what_is_wrong_or_not_supported_is_named(body: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidJob) as caught:
        message_fields(ASKED | body)
    assert caught.value.field == field


def test_an_answer_is_anthropics_type(types: Any, result: JobResult) -> None:
    message = conforms(types.Message, message_body(result, "m"))
    assert (message.id, message.content[0].text) == (f"msg_{result.job_id}", "héy")
    assert (message.stop_reason, message.usage.input_tokens, message.usage.output_tokens) == (
        "end_turn",
        2,
        2,
    )
    assert message.usage.cache_read_input_tokens == 1
    cut = conforms(types.Message, message_body(result.model_copy(update={"finish_reason": "length"}), "m"))
    assert cut.stop_reason == "max_tokens"
    assert conforms(types.MessageTokensCount, count_body(result)).input_tokens == 3


def test_a_stream_has_anthropics_events_in_their_order(types: Any, result: JobResult) -> None:
    stream = MessageStream(result.job_id, "m")
    chunks = [Chunk(offset=1, text="", token_ids=(1,)), Chunk(offset=2, text="héy", token_ids=(2,))]
    events = [
        *stream.start(),
        *(event for chunk in chunks for event in stream.chunk(chunk)),
        *stream.end(result),
    ]
    assert [event["type"] for event in events] == [
        "message_start",
        "ping",
        "content_block_start",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    for event in events:
        if event["type"] != "ping":
            conforms(types.RawMessageStreamEvent, event)
    assert events[5]["usage"] == message_body(result, "m")["usage"]


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (InvalidJob("top_p", "must be above 0"), 400, "invalid_request_error"),
        (UnknownModel("x", ["secret"]), 404, "not_found_error"),
        (RateLimited("t", 5, "jobs", 3.0), 429, "rate_limit_error"),
        (JobFailed("id", "crashed", "secret"), 500, "api_error"),
        (BrokerUnavailable("redis://secret"), 503, "overloaded_error"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, HeadraceError) else "",
)
def test_an_error_is_told_as_anthropic_would(
    types: Any, error: HeadraceError, status: int, kind: str
) -> None:
    found, body = error_body(error)
    assert (found, conforms(types.shared.ErrorResponse, body).error.type) == (status, kind)
    assert "secret" not in body["error"]["message"]
    assert MessageStream("id", "m").failed(error) == [body]
    assert anthropic_error(413, "")["error"]["type"] == "request_too_large"


def test_calls_and_their_results_become_messages_of_a_chat() -> None:
    schema = {"type": "object", "properties": {"x": {"type": "string"}}}
    body = ASKED | {
        "tools": [{"name": "f", "description": "d", "input_schema": schema, "type": "custom"}],
        "tool_choice": {"type": "none"},
        "thinking": {"type": "disabled"},
        "messages": [
            {"role": "user", "content": "Hello"},
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "Hm.", "signature": ""},
                    {"type": "text", "text": "Let me look."},
                    {"type": "tool_use", "id": "c1", "name": "f", "input": {"x": "é"}},
                    {"type": "tool_use", "id": "c2", "name": "f", "input": {}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "c1", "content": [{"type": "text", "text": "21"}]},
                    {"type": "tool_result", "tool_use_id": "c2", "content": "no", "is_error": True},
                    {"type": "text", "text": "And?"},
                ],
            },
        ],
    }
    fields = message_fields(body)
    called = [
        {"id": name, "type": "function", "function": {"name": "f", "arguments": arguments}}
        for name, arguments in (("c1", '{"x": "é"}'), ("c2", "{}"))
    ]
    assert fields["messages"] == [
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Let me look.", "tool_calls": called},
        {"role": "tool", "tool_call_id": "c1", "content": "21"},
        {"role": "tool", "tool_call_id": "c2", "content": "Error: no"},
        {"role": "user", "content": "And?"},
    ]
    function = {"name": "f", "description": "d", "parameters": schema}
    assert fields["tools"] == [{"type": "function", "function": function}]
    assert (fields["tool_choice"], fields["reasoning_effort"]) == ("none", "none")
    Job.make(**fields)


def test_a_stream_of_calls_has_a_block_for_each(types: Any, result: JobResult) -> None:
    pieces = (
        "<think>Hm",
        ".</think>Let me",
        " look.",
        '\n<tool_call>{"name": "f", "arguments": {"x": ',
        '"é"}}',
    )
    known = AnswerFormat(tools="hermes", reasoning="think")
    said = result.model_copy(update={"format": known, "text": "".join(pieces)}).read()
    stream = MessageStream(result.job_id, "m")
    events = stream.start()
    for at, piece in enumerate(pieces):
        events += stream.chunk(
            Chunk(offset=at + 1, text=piece, token_ids=(at,), format=None if at else known)
        )
    events += stream.end(said)
    for event in events:
        if event["type"] != "ping":
            conforms(types.RawMessageStreamEvent, event)
    begun = [event["content_block"]["type"] for event in events if event["type"] == "content_block_start"]
    assert begun == ["thinking", "text", "tool_use"]
    stopped = [event["index"] for event in events if event["type"] == "content_block_stop"]
    assert stopped == [0, 1, 2]
    partial = [
        event["delta"].get("partial_json", "") for event in events if "index" in event and "delta" in event
    ]
    message = conforms(types.Message, message_body(said, "m"))
    assert json.loads("".join(partial)) == message.content[2].input == {"x": "é"}
    assert (message.content[0].thinking, message.content[1].text) == ("Hm.", "Let me look.")
    assert message.stop_reason == events[-2]["delta"]["stop_reason"] == "tool_use"


@pytest.mark.parametrize(
    "written", ['{"x": NaN}', '{"x": 1e999}', '{"x": "\\ud800"}', '{"x": %s}' % ("9" * 5000)]
)
def test_arguments_that_no_json_can_hold_are_left_out(result: JobResult, written: str) -> None:
    text = f'<tool_call>{{"name": "f", "arguments": {written}}}</tool_call>'
    said = result.model_copy(update={"format": AnswerFormat(tools="hermes"), "text": text}).read()
    (used,) = json.loads(json.dumps(message_body(said, "m"), allow_nan=False, ensure_ascii=False).encode())[
        "content"
    ]
    assert (used["type"], used["name"], used["input"]) == ("tool_use", "f", {})
