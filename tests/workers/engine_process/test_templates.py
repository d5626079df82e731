"""Conversations become the tokens that `transformers` makes of them, by templates in each family's manner."""

from pathlib import Path
from typing import Any

import pytest
from jinja2 import TemplateError
from tokenizers import processors
from transformers import AutoTokenizer

from headrace.workers.engine_process.text import ChatTemplateError, Tokenizer

from .tokenizers_of import SPECIALS, word_pieces

BOS = SPECIALS.index("<s>")

CHATML = """\
{%- if tools %}<|im_start|>system
{{ messages[0].content if messages[0].role == 'system' }} {{ tools | tojson }}<|im_end|>
{% endif %}
{%- for message in messages %}
{%- if not (tools and loop.first and message.role == 'system') -%}
<|im_start|>{{ message.role }}
{{ message.content }}
{%- for call in message.tool_calls or [] %}{% set f = call.function %}
<tool_call>{"name": "{{ f.name }}", "arguments": {{ f.arguments | tojson }}}</tool_call>
{%- endfor %}<|im_end|>
{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""

HEADERS = """\
{{- bos_token }}
{%- set date = date_string or '26 Jul 2024' %}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}
    {{- message['content'] | trim + '</s>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif %}"""

INSTRUCTIONS = """\
{{ bos_token }}{% for message in messages %}
{%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
{{- raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}
{%- endif %}
{%- if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}
{%- else %}{{ message['content'] + eos_token }}{% endif %}
{%- endfor %}"""

TURNS = """\
{{ bos_token }}
{%- if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}
{%- for message in messages %}
{%- set role = 'model' if message['role'] == 'assistant' else message['role'] %}
{{- '<start_of_turn>' + role + '\\n' + message['content'] | trim + '<end_of_turn>\\n' }}
{%- endfor %}
{% generation %}{% endgeneration %}
{%- if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"""

TEMPLATES = {"chatml": CHATML, "headers": HEADERS, "instructions": INSTRUCTIONS, "turns": TURNS}

USER = {"role": "user", "content": "the river"}
ASSISTANT = {"role": "assistant", "content": " there was\n\n"}
SYSTEM = {"role": "system", "content": "a <s> river\u00a0ä 😀 {{ 7 * 7 }} {% raw %}"}
CALL = {
    "role": "assistant",
    "content": "",
    "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": {"x": "ü</tool_call>"}}}],
}
TOOLS = [
    {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "z": 1, "a": [None]}}}
]
CONVERSATIONS: dict[str, tuple[list[dict[str, Any]], list[dict[str, Any]] | None]] = {
    "one turn": ([USER], None),
    "three turns": ([USER, ASSISTANT, USER], None),
    "a system prompt": ([SYSTEM, USER], None),
    "two of a user": ([USER, USER], None),
    "the assistant last": ([USER, ASSISTANT], None),
    "tools": ([SYSTEM, USER], TOOLS),
    "a tool's answer": ([USER, CALL, {"role": "tool", "content": '{"y": 1}', "name": "f"}], TOOLS),
    "odd spaces": ([{"role": "user", "content": "  \t\r\n the \u2028 <|im_end|>\n"}], None),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A checkpoint's tokenizer files by template; its post-processor puts a BOS in front, as Llama's does."""
    made = {}
    for name, template in TEMPLATES.items():
        made[name] = tmp_path_factory.mktemp(name)
        backend = word_pieces(made[name], template)._backend
        backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", BOS)])
        backend.save(str(made[name] / "tokenizer.json"))
    return made


@pytest.mark.parametrize("template", TEMPLATES)
def test_conversations_are_rendered_as_transformers_does(folders: dict[str, Path], template: str) -> None:
    ours = Tokenizer(str(folders[template]))
    theirs = AutoTokenizer.from_pretrained(folders[template])
    refused = []
    for name, (messages, tools) in CONVERSATIONS.items():
        options = {"tools": tools, "add_generation_prompt": True, "return_dict": False}
        try:
            wanted = theirs.apply_chat_template(messages, **options)
        except TemplateError:
            refused.append(name)
            with pytest.raises(ChatTemplateError):
                ours.chat(messages, tools)
        else:
            assert ours.chat(messages, tools) == wanted, name
    systems = ["a system prompt", "tools"]
    odd = ["two of a user", "a tool's answer"]
    assert sorted(refused) == sorted({"instructions": systems + odd, "turns": systems}.get(template, []))


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_beginning_of_sequence_is_there_once(folders: dict[str, Path], template: str) -> None:
    tokenizer = Tokenizer(str(folders[template]))
    assert tokenizer.encode("the river").count(BOS) == 1
    assert tokenizer.chat([USER]).count(BOS) == (template != "chatml"), "as the template says"
