"""Requests for responses, as jobs and as what is kept of them."""

from typing import Any, get_args

import pytest
from openai.types.responses import ResponseItemList, response_create_params, response_includable
from tests.support.openai_types import conforms, fields_of

from headrace import InvalidJob, Job
from headrace.producers.openai.responses.items import page_of_items
from headrace.producers.openai.responses.request import FIELDS, INCLUDABLE, LOGPROBS, response_request

HOOK = {"url": "https://backend.example/hook"}
ASKED = {"model": "m", "input": "Hello"}


def test_every_field_of_openais_requests_has_been_thought_about() -> None:
    assert fields_of(response_create_params.ResponseCreateParams) - FIELDS.known == set()
    assert set(get_args(response_includable.ResponseIncludable)) == set(INCLUDABLE)
    fates = [FIELDS.passed, FIELDS.read.keys(), FIELDS.neutral.keys(), FIELDS.refused.keys()]
    assert sum(map(len, fates)) == len(frozenset().union(*fates))


@pytest.mark.parametrize(
    ("body", "job"),
    [
        ({}, {"messages": [{"role": "user", "content": "Hello"}]}),
        (
            {"instructions": "Be brief."},
            {"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]},
        ),
        (
            {
                "input": [
                    {"role": "developer", "content": "D"},
                    {
                        "type": "message",
                        "role": "user",
                        "content": [{"type": "input_text", "text": t} for t in "ab"],
                    },
                    {
                        "type": "message",
                        "id": "msg_1",
                        "status": "completed",
                        "role": "assistant",
                        "content": [{"type": "output_text", "text": "c", "annotations": []}],
                    },
                ]
            },
            {
                "messages": [
                    {"role": "developer", "content": "D"},
                    {"role": "user", "content": "a\nb"},
                    {"role": "assistant", "content": "c"},
                ]
            },
        ),
        ({"max_output_tokens": 5, "temperature": 0}, {"max_tokens": 5, "temperature": 0}),
        ({"service_tier": "flex", "user": "u"}, {"job_class": "batch", "metadata": {"user": "u"}}),
        ({"include": [LOGPROBS]}, {"logprobs": 0}),
        ({"webhook": HOOK}, {"webhook": HOOK | {"payload": "openai"}}),
        ({"webhook": HOOK | {"payload": "thin"}}, {"webhook": HOOK | {"payload": "thin"}}),
        ({"top_logprobs": 3, "include": ["reasoning.encrypted_content"]}, {"logprobs": 3}),
        ({"text": {"format": {"type": "text"}}, "reasoning": {"effort": None}, "truncation": "disabled"}, {}),
        ({"text": {"format": {"type": "json_object"}}}, {"response_format": {"type": "json_object"}}),
        (
            {"text": {"format": {"type": "json_schema", "name": "a", "schema": {}, "strict": True}}},
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "a", "schema": {}, "strict": True},
                }
            },
        ),
        (
            {
                "tools": [{"type": "function", "name": "f", "parameters": {}, "strict": None}],
                "tool_choice": "none",
                "parallel_tool_calls": False,
                "reasoning": {"effort": "high", "summary": "auto"},
            },
            {
                "tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}],
                "tool_choice": "none",
                "parallel_tool_calls": False,
                "reasoning_effort": "high",
            },
        ),
    ],
)
def test_a_request_becomes_the_arguments_of_a_job(body: dict[str, Any], job: dict[str, Any]) -> None:
    found = response_request(ASKED | body).job
    assert {name: found[name] for name in job} == job
    Job.make(**found)


def test_a_request_continues_a_conversation_without_its_instructions() -> None:
    first = response_request(ASKED | {"instructions": "Be brief."})
    answered = [*first.items, {"role": "assistant", "content": "Hi."}]
    second = response_request(ASKED | {"input": "And?", "previous_response_id": "resp_1"}, answered)
    assert [message["content"] for message in second.job["messages"]] == ["Hello", "Hi.", "And?"]
    assert second.echo["previous_response_id"] == "resp_1"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"input": None}, "input"),
        ({"input": []}, "input"),
        ({"input": [7]}, "input.0"),
        ({"input": [{"type": "function_call_output", "call_id": "c"}]}, "input.0.output"),
        ({"input": [{"type": "reasoning", "id": "rs_1", "summary": []}]}, "input"),
        ({"input": [{"id": "msg_1"}]}, "input.0.type"),
        ({"input": [{"role": "tool", "content": "x"}]}, "input.0.role"),
        ({"input": [{"role": ["user"], "content": "x"}]}, "input.0.role"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input.0.content.0"),
        ({"instructions": 3}, "instructions"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"top_logprobs": 21}, "top_logprobs"),
        ({"include": ["everything"]}, "include"),
        ({"include": [["x"]]}, "include"),
        ({"tools": [{"type": "web_search"}]}, "tools.0.type"),
        ({"tool_choice": {"type": "hosted"}}, "tool_choice"),
        ({"text": {"format": "json_object"}}, "text.format"),
        ({"text": {"verbosity": "high"}}, "text.verbosity"),
        ({"reasoning": {"depth": "high"}}, "reasoning.depth"),
        ({"truncation": "auto"}, "truncation"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"background": True, "store": False}, "store"),
        ({"stream_options": {"include_obfuscation": False}}, "stream_options"),
        ({"stream": True, "stream_options": {"include_usage": True}}, "stream_options.include_usage"),
        ({"max_tokens_": 1}, "max_tokens_"),
    ],
)
def test_what_is_wrong_or_not_supported_is_named(body: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidJob) as caught:
        response_request(ASKED | body)
    assert caught.value.field == field


def test_input_items_come_in_pages() -> None:
    given = [{"role": role, "content": role} for role in ("system", "user", "assistant", "user")]
    items = response_request(ASKED | {"input": given}).items
    first = page_of_items("id", items, after=None, limit=3, order="desc")
    second = page_of_items("id", items, after=first["last_id"], limit=3, order="desc")
    assert [first["has_more"], second["has_more"]] == [True, False]
    listed = [
        item.content[0].text for page in (first, second) for item in conforms(ResponseItemList, page).data
    ]
    assert listed == ["user", "assistant", "user", "system"]
    whole = page_of_items("id", items, after=None, limit=100, order="asc")["data"]
    assert [item["role"] for item in whole] == ["system", "user", "assistant", "user"]
    for wrong in ({"limit": 0}, {"limit": 101}, {"order": "up"}, {"after": "msg_9"}):
        with pytest.raises(InvalidJob):
            page_of_items("id", items, **{"after": None, "limit": 9, "order": "asc"} | wrong)  # type: ignore[arg-type]
