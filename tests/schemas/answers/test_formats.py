"""What models write, format by format, and what readers make of it."""

import json
from typing import Any

import pytest

from headrace.schemas.answers import AnswerFormat, parse

WEATHER = {"city": "Zürich", "days": 3}


def read(text: str, **how: Any) -> tuple[str, str, list[tuple[str, Any]]]:
    message = parse(AnswerFormat(**how), text)
    return (
        message.content,
        message.reasoning,
        [(call.name, json.loads(call.arguments)) for call in message.calls],
    )


ONE_CALL = [
    ("hermes", '<tool_call>\n{"name": "weather", "arguments": {"city": "Zürich", "days": 3}}\n</tool_call>'),
    ("hermes", '<tool_call>{"arguments": {"city": "Zürich", "days": 3}, "name": "weather"}</tool_call>\n'),
    (
        "hermes",
        r'<tool_call>{"name": "weather", "arguments": "{\"city\": \"Zürich\", \"days\": 3}"}</tool_call>',
    ),
    (
        "qwen3_coder",
        (
            "<tool_call>\n<function=weather>\n<parameter=city>\nZürich\n</parameter>\n"
            "<parameter=days>\n3\n</parameter>\n</function>\n</tool_call>"
        ),
    ),
    ("llama3_json", '{"name": "weather", "parameters": {"city": "Zürich", "days": 3}}'),
    (
        "llama3_json",
        '<|python_tag|>{"type": "function", "name": "weather", "parameters": {"city": "Zürich", "days": 3}}',
    ),
    ("pythonic", "[weather(city='Zürich', days=3)]"),
    ("pythonic", '<|python_start|>[weather(city="Zürich", days=3)]<|python_end|>'),
    ("mistral", '[TOOL_CALLS] [{"name": "weather", "arguments": {"city": "Zürich", "days": 3}}]'),
    ("mistral", '[TOOL_CALLS]weather[ARGS]{"city": "Zürich", "days": 3}'),
    ("mistral", '[TOOL_CALLS]weather[CALL_ID]a1B2c3D4e[ARGS]{"city": "Zürich", "days": 3}'),
    (
        "harmony",
        (
            "<|channel|>commentary to=functions.weather <|constrain|>json<|message|>"
            '{"city": "Zürich", "days": 3}<|call|>'
        ),
    ),
    (
        "glm",
        (
            "<tool_call>weather\n<arg_key>city</arg_key>\n<arg_value>Zürich</arg_value>\n"
            "<arg_key>days</arg_key>\n<arg_value>3</arg_value>\n</tool_call>"
        ),
    ),
    (
        "deepseek",
        (
            "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>weather<｜tool▁sep｜>"
            '{"city": "Zürich", "days": 3}<｜tool▁call▁end｜><｜tool▁calls▁end｜>'
        ),
    ),
    (
        "deepseek",
        (
            "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>weather\n```json\n"
            '{"city": "Zürich", "days": 3}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>'
        ),
    ),
    (
        "gemma",
        "<start_function_call>call:weather{city:<escape>Zürich<escape>,days:3}<end_function_call>",
    ),
    ("gemma", '<|tool_call>call:weather{city:<|"|>Zürich<|"|>,days:3}<tool_call|>'),
]


@pytest.mark.parametrize(("tools", "text"), ONE_CALL)
def test_a_call_is_read(tools: str, text: str) -> None:
    assert read(text, tools=tools, values={"weather": {"days": "json"}}) == ("", "", [("weather", WEATHER)])


SEVERAL = [
    (
        "hermes",
        (
            'Let me look.\n\n<tool_call>\n{"name": "a", "arguments": {}}\n</tool_call>\n'
            '<tool_call>\n{"name": "b", "arguments": {"x": {"y": [1, "}"]}}}\n</tool_call>'
        ),
    ),
    (
        "qwen3_coder",
        (
            "Let me look.\n<tool_call>\n<function=a>\n</function>\n</tool_call>\n"
            '<tool_call>\n<function=b>\n<parameter=x>\n{"y": [1, "}"]}\n</parameter>\n'
            "</function>\n</tool_call>"
        ),
    ),
    (
        "mistral",
        (
            'Let me look.[TOOL_CALLS] [{"name": "a", "arguments": {}}, '
            '{"name": "b", "arguments": {"x": {"y": [1, "}"]}}}]'
        ),
    ),
    ("mistral", 'Let me look.[TOOL_CALLS]a[ARGS]{}[TOOL_CALLS]b[ARGS]{"x": {"y": [1, "}"]}}'),
    (
        "harmony",
        (
            "<|channel|>commentary<|message|>Let me look.<|end|><|start|>assistant<|channel|>commentary "
            "to=functions.a <|constrain|>json<|message|>{}<|call|><|start|>assistant "
            'to=functions.b<|channel|>commentary<|message|>{"x": {"y": [1, "}"]}}'
        ),
    ),
    (
        "glm",
        (
            "Let me look.\n<tool_call>a\n</tool_call>\n<tool_call>b\n<arg_key>x</arg_key>\n"
            '<arg_value>{"y": [1, "}"]}</arg_value>\n</tool_call>'
        ),
    ),
    (
        "deepseek",
        (
            "Let me look.<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>a<｜tool▁sep｜>{}<｜tool▁call▁end｜>\n"
            '<｜tool▁call▁begin｜>b<｜tool▁sep｜>{"x": {"y": [1, "}"]}}'
            "<｜tool▁call▁end｜><｜tool▁calls▁end｜>"
        ),
    ),
    (
        "gemma",
        (
            "Let me look.<start_function_call>call:a{}<end_function_call>"
            "<start_function_call>call:b{x:{y:[1,<escape>}<escape>]}}<end_function_call>"
        ),
    ),
]


@pytest.mark.parametrize(("tools", "text"), SEVERAL)
def test_several_calls_after_text_are_read(tools: str, text: str) -> None:
    calls = [("a", {}), ("b", {"x": {"y": [1, "}"]}})]
    assert read(text, tools=tools, values={"b": {"x": "json"}}) == ("Let me look.", "", calls)


def test_formats_of_nothing_but_calls_take_several() -> None:
    calls = [("a", {}), ("b", {"x": None})]
    for tools, text in (
        ("llama3_json", '{"name": "a", "parameters": {}}; {"name": "b", "parameters": {"x": null}}'),
        ("pythonic", "[a(), b(x=None)]"),
    ):
        assert read(text, tools=tools) == ("", "", calls)


NO_CALLS = [
    ("hermes", "<tool_call>\nnot json\n</tool_call> and more \n"),
    ("hermes", '<tool_call>{"name": 5, "arguments": {}}</tool_call>'),
    ("hermes", 'I write <tool_call> and </tool_call>, and {"name": "a"}. '),
    ("hermes", "a <tool_c"),
    ("qwen3_coder", "<tool_call>\n<fun>\n</tool_call>"),
    ("qwen3_coder", "x <function=\n"),
    ("llama3_json", '{"answer": 42, "name": ["no call"]}'),
    ("llama3_json", "{ not json"),
    ("llama3_json", '  {"name": '),
    ("pythonic", "[1, 2, 3] is a list; f(x) is none"),
    ("pythonic", "[f(1, 2)]"),
    ("pythonic", "[f(x=g())"),
    ("pythonic", "[f(x={1: )]"),
    ("pythonic", "[f(x='\\ud800')]"),
    ("pythonic", f"[f(x={'[' * 70}{']' * 70})]"),
    ("mistral", "[TOOL_CALLS] nothing"),
    ("mistral", '[TOOL_CALLS] [{"nome": "a"}]'),
    ("mistral", "[TOOL_CALLS]a[ARGS] none"),
    ("harmony", "just text, no channel"),
    ("harmony", "<|channel|>analysis and no message"),
    ("glm", "<tool_call>not a name</tool_call>"),
    ("deepseek", "<｜tool▁calls▁begin｜>nothing<｜tool▁calls▁end｜>"),
    ("deepseek", "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>\n"),
    ("gemma", "<start_function_call>weather{}<end_function_call>"),
]


@pytest.mark.parametrize(("tools", "text"), NO_CALLS)
def test_what_is_no_call_is_text_to_the_last_character(tools: str, text: str) -> None:
    assert read(text, tools=tools) == (text, "", [])


def test_values_without_quotes_have_the_types_of_the_schema() -> None:
    text = "<tool_call>\n<function=f>\n"
    for name, value in {
        "s": "12",
        "n": "12",
        "b": "True",
        "o": "null",
        "bad": "{",
        "code": 'a\n  "b"\\\n',
    }.items():
        text += f"<parameter={name}>\n{value}\n</parameter>\n"
    text += "</function>\n</tool_call>"
    kinds = {"n": "json", "b": "json", "o": "nullable", "bad": "json"}
    _, _, [(_, arguments)] = read(text, tools="qwen3_coder", values={"f": kinds})
    assert arguments == {"s": "12", "n": 12, "b": True, "o": None, "bad": "{", "code": 'a\n  "b"\\\n'}


def test_a_call_that_the_length_cut_has_the_arguments_that_there_are() -> None:
    cut = {
        "hermes": '<tool_call>\n{"name": "f", "arguments": {"x": "a',
        "qwen3_coder": "<tool_call>\n<function=f>\n<parameter=x>\na",
        "mistral": '[TOOL_CALLS]f[ARGS]{"x": "a',
        "glm": "<tool_call>f\n<arg_key>x</arg_key>\n<arg_value>a",
        "gemma": "<start_function_call>call:f{x:<escape>a",
    }
    for tools, text in cut.items():
        message = parse(AnswerFormat(tools=tools), text)
        (call,) = message.calls
        assert (message.content, call.name, call.arguments.replace(" ", "")) == ("", "f", '{"x":"a'), tools


def test_reasoning_is_split_from_the_answer() -> None:
    assert read("<think>\nHm.\n\nYes.\n</think>\n\nNo. ", reasoning="think") == ("No. ", "Hm.\n\nYes.", [])
    assert read("Hm.\n</think>\n\nNo.", reasoning="think", begun=True) == ("No.", "Hm.", [])
    assert read("never ends", reasoning="think", begun=True) == ("", "never ends", [])
    assert read("  <thinking> no </think>\n", reasoning="think") == ("  <thinking> no </think>\n", "", [])
    assert read("<think>\n\n</think>\n\nNo.", reasoning="think") == ("No.", "", [])
    called = '[THINK]Hm.[/THINK][TOOL_CALLS]f[ARGS]{"x": "</think>"}'
    assert read(called, reasoning="mistral", tools="mistral") == ("", "Hm.", [("f", {"x": "</think>"})])
    channels = (
        "<|channel|>analysis<|message|>Hm. <|end|><|start|>assistant<|channel|>final<|message|>No. <|return|>"
    )
    assert read(channels, reasoning="harmony") == ("No.", "Hm.", [])


def test_a_call_within_the_reasoning_is_none() -> None:
    text = '<think>I could <tool_call>{"name": "f"}</tool_call></think><tool_call>{"name": "g"}</tool_call>'
    reasoning = 'I could <tool_call>{"name": "f"}</tool_call>'
    assert read(text, tools="hermes", reasoning="think") == ("", reasoning, [("g", {})])


def test_a_second_call_is_text_if_one_is_wanted() -> None:
    for tools, text in SEVERAL[:1]:
        content, _, calls = read(text, tools=tools, single=True)
        assert calls == [("a", {})]
        assert content.endswith(text[text.rindex("<tool_call>") :])


def test_a_format_that_only_a_newer_worker_knows_is_none() -> None:
    known = AnswerFormat.model_validate({"tools": "telepathy", "reasoning": "think", "colour": 3})
    assert (known.tools, known.reasoning) == (None, "think")
