"""Conversations with tools, as OpenAI's clients send them, reach templates in the form that these take."""

import copy
import json
from typing import Any

import pytest

from headrace.workers.engine_process.text import ChatTemplateError, Tokenizer
from headrace.workers.engine_process.text.messages import takes

from .tokenizers_of import byte_level

OPEN = "{% for m in messages %}<s>{{ m.role }}:"
CLOSE = "\n{% endfor %}<s>assistant:"
TEMPLATES = {
    "tojson": "{{ m.content or '' }}{% for t in m.tool_calls or [] %}[{{ t.function.name }} "
    "{{ t.function.arguments | tojson }}]{% endfor %}",
    "items": "{{ m.content }}{% for t in m.tool_calls or [] %}[{{ t.function.name }}"
    "{% for k, v in t.function.arguments.items() %} {{ k }}={{ v }}{% endfor %}]{% endfor %}",
    "content and text": "{{ 'x' + m.content }}{% for t in m.tool_calls or [] %}[{{ t.function.name }}]"
    "{% endfor %}",
    "arguments and text": "{{ m.content or '' }}{% for t in m.tool_calls or [] %}[{{ t.function.name + ' ' + "
    "t.function.arguments }}]{% endfor %}",
    "both and text": "{{ 'x' + m.content }}{% for t in m.tool_calls or [] %}[{{ '' + t.function.arguments }}]"
    "{% endfor %}",
    "asks which": "{{ m.content or '' }}{% for t in m.tool_calls or [] %}["
    "{% if t.function.arguments is string %}{{ t.function.arguments }}"
    "{% else %}{{ t.function.arguments | tojson }}{% endif %}]{% endfor %}",
}
TEXT, OBJECT = '{"city": "Zürich"}', {"city": "Zürich"}


def conversation(arguments: Any, content: Any = ...) -> list[dict[str, Any]]:
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": arguments}}
    said = {"role": "assistant", "tool_calls": [call]}
    if content is not ...:
        said["content"] = content
    result = {"role": "tool", "tool_call_id": "c1", "content": "21"}
    return [{"role": "user", "content": "Weather?"}, said, result]


@pytest.fixture
def with_template(tmp_path):
    def made(name: str) -> Tokenizer:
        return byte_level(tmp_path, OPEN + TEMPLATES.get(name, name) + CLOSE)

    return made


@pytest.mark.parametrize(
    ("name", "as_if"),
    [
        ("tojson", conversation(OBJECT)),
        ("items", conversation(OBJECT)),
        ("content and text", conversation(OBJECT, "")),
        ("arguments and text", conversation(TEXT)),
        ("both and text", conversation(TEXT, "")),
        ("asks which", conversation(OBJECT)),
    ],
)
@pytest.mark.parametrize("content", [..., None])
def test_arguments_reach_a_template_in_the_form_it_takes(with_template, name, as_if, content):
    tokenizer = with_template(name)
    wanted = tokenizer._hf.apply_chat_template(as_if, tokenize=False, add_generation_prompt=True)
    sent = conversation(TEXT, content)
    kept = copy.deepcopy(sent)
    assert tokenizer.render(sent) == wanted
    assert tokenizer.render(conversation(OBJECT, content)) == wanted
    assert sent == kept


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        *[("", "{}"), ("{", '"{"'), ("[1]", '"[1]"'), ("7", '"7"')],
        # What no text and no template can hold.
        (r'{"x": "\ud800"}', json.dumps(r'{"x": "\ud800"}')),
        ('{"x": ' + "[" * 200_000, json.dumps('{"x": ' + "[" * 200_000)),
    ],
    ids=range(6),
)
def test_arguments_that_are_no_object_stay_what_they_are(with_template, arguments, shown):
    assert f"[weather {shown}]" in with_template("tojson").render(conversation(arguments))


@pytest.mark.parametrize("calls", [7, "x", [None], [{}], [{"function": None}]])
def test_calls_that_are_none_are_left_to_the_template(with_template, calls):
    messages = [{"role": "assistant", "tool_calls": calls, "content": "a"}]
    assert with_template("{{ m.content }}").render(messages) == "<s>assistant:a\n<s>assistant:"


def test_what_a_template_says_first_is_its_reason(with_template):
    tokenizer = with_template("{{ raise_exception('no tools ' + m.tool_calls[0].function.arguments.city) }}")
    with pytest.raises(ChatTemplateError, match="refused the messages: "):
        tokenizer.render(conversation(TEXT))


@pytest.mark.parametrize(
    ("template", "taken"),
    [
        ("{% if tools %}x{% endif %}", True),
        ("{{- tools | tojson -}}", True),
        ("{%- set tools = custom_tools %}", True),
        ({"default": "{{ x }}", "tool_use": "{{ tools }}"}, True),
        ("You may use tools: {{ messages }}", False),
        ("{{ 'use tools' }}{# tools #}", False),
        ("{{ custom_tools }}", False),
        (None, False),
    ],
)
def test_a_template_that_never_looks_at_tools_is_known(template, taken):
    assert takes(template, "tools") is taken
