"""In which format a model writes is seen in its chat template, and its markers stay in the text."""

from pathlib import Path
from typing import Any

import pytest

from headrace.schemas.answers import AnswerFormat, parse
from headrace.schemas.events import chunk_payload
from headrace.schemas.wire import WireJob
from headrace.workers.engine_process.intake.reader import Reader
from headrace.workers.engine_process.prepared import Asked, Prepared
from headrace.workers.engine_process.text import TextStream
from headrace.workers.engine_process.text.answer_format import answer_format, reasoning_format, tool_format

from .tokenizers_of import byte_level

HERMES = (
    '{%- if tools %}You may call functions. For each call return\\n<tool_call>\\n{"name": <function-name>, '
    '"arguments": <args-json-object>}\\n</tool_call>{{ tools | tojson }}{%- endif %}'
)
TEMPLATES = {
    "Qwen2.5": (HERMES, "hermes", None),
    "Qwen3": (HERMES + "{%- if '</think>' in message.content %}<think>", "hermes", "think"),
    "Qwen3-Coder": (HERMES + "<tool_call>\\n<function=example>\\n<parameter=x>", "qwen3_coder", None),
    "GLM-4.5": (
        "<tool_call>{function-name}\\n<arg_key>{arg-key-1}</arg_key> <think></think>",
        "glm",
        "think",
    ),
    "DeepSeek-R1": (
        "{{'<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>'}}content.split('</think>')",
        "deepseek",
        "think",
    ),
    "Mistral": ('{{- "[TOOL_CALLS] [" }}', "mistral", None),
    "Magistral": ("[THINK]{{ x }}[/THINK] [TOOL_CALLS]", "mistral", "mistral"),
    "gpt-oss": ('"<|start|>assistant<|channel|>analysis<|message|>"', "harmony", "harmony"),
    "Llama-3.1": (
        (
            'Respond in the format {"name": function name, "parameters": dictionary of argument name '
            "and its value}. <|python_tag|>"
        ),
        "llama3_json",
        None,
    ),
    "Llama-4": ("should be [func_name1(params_name1=params_value1), func_name2(params)]", "pythonic", None),
    "functiongemma": ("<start_function_call>call:", "gemma", None),
    "SmolLM2": ("<|im_start|>{{ message.content }}<|im_end|>", None, None),
    "none": (None, None, None),
}
TOOL = {
    "type": "function",
    "function": {
        "name": "f",
        "parameters": {
            "type": "object",
            "properties": {
                "s": {"type": "string"},
                "n": {"type": "integer"},
                "o": {"anyOf": [{"type": "string"}, {"type": "null"}]},
                "l": {"type": ["array", "null"]},
                "e": {"enum": ["a", "b"]},
                "r": {"$ref": "#/$defs/r"},
                "any": {},
            },
        },
    },
}
USER = [{"role": "user", "content": "hi"}]


@pytest.mark.parametrize("name", list(TEMPLATES))
def test_the_formats_are_found_in_the_template(name: str) -> None:
    template, tools, reasoning = TEMPLATES[name]
    assert (tool_format(template), reasoning_format(template)) == (tools, reasoning)
    assert (tool_format(template, "none"), tool_format(template, "glm")) == (None, "glm")


def test_a_format_is_for_jobs_that_can_need_it() -> None:
    def found(
        prompt: str = "x", tools: str | None = "hermes", reasoning: str | None = None, **more: Any
    ) -> Any:
        job = WireJob.make(model="m", messages=USER, **more)
        return answer_format(job, prompt, tools, reasoning)

    assert found() is found(tools=[TOOL], tool_choice="none") is None
    assert found(reasoning="think") == AnswerFormat(reasoning="think")


def test_a_prompt_may_end_within_the_reasoning() -> None:
    job = WireJob.make(model="m", messages=USER)
    for prompt, begun in (("a<think>\n", True), ("a<think>\n\n</think>\n\n", False), ("<think> b", False)):
        assert answer_format(job, prompt, None, "think") == AnswerFormat(reasoning="think", begun=begun)


def test_parameters_that_are_no_strings_are_known_where_the_format_does_not_tell() -> None:
    job = WireJob.make(model="m", messages=USER, tools=[TOOL], parallel_tool_calls=False)
    values = {"f": {"n": "json", "o": "nullable", "l": "json", "r": "json"}}
    assert answer_format(job, "", "glm", None) == AnswerFormat(tools="glm", single=True, values=values)
    assert answer_format(job, "", "hermes", None) == AnswerFormat(tools="hermes", single=True)


def read(reader: Reader, log: list[bytes] = [], offset: int = 0, **fields: Any) -> Prepared:  # noqa: B006
    job = WireJob.make(model="m", messages=USER, **fields)
    return reader.read(Asked("j", job.to_wire().encode(), 500, offset, log))


def test_a_job_that_goes_on_keeps_the_format_that_its_readers_know(tmp_path: Path) -> None:
    reader = Reader(byte_level(tmp_path, "{{ tools | tojson }}<tool_call></think>"))
    known = {"tools": "mistral", "reasoning": "mistral"}
    log = [chunk_payload(1, [""], [5], None, known).encode(), chunk_payload(2, [""], [6], None).encode()]
    assert read(reader, tools=[TOOL]).answer_format == {"tools": "hermes", "reasoning": "think"}
    assert read(reader, log, 2, tools=[TOOL]).answer_format == known
    assert read(reader, [chunk_payload(1, [""], [5], None).encode()], 1, tools=[TOOL]).answer_format is None


def test_effort_reaches_the_templates_that_know_it(tmp_path: Path) -> None:
    def prompt(template: str, effort: str) -> Any:
        tokenizer = byte_level(tmp_path, template)
        prepared = read(Reader(tokenizer), reasoning_effort=effort)
        return prepared.error.message if prepared.error else tokenizer.decode(prepared.prompt_ids)

    assert prompt("{{ reasoning_effort }}!", "high") == "high!"
    assert prompt("{% if enable_thinking %}on{% else %}off{% endif %}", "none") == "off"
    assert prompt("{% if enable_thinking %}on{% else %}off{% endif %}", "low") == "on"
    assert prompt("plain", "none") == prompt("plain", "medium") == "plain"
    assert prompt("plain", "high").startswith("reasoning_effort: the chat template of m knows no effort")
    assert prompt("plain </think>", "none").startswith("reasoning_effort: ")


def test_markers_that_are_special_tokens_are_in_the_text(tmp_path: Path) -> None:
    tokenizer = byte_level(tmp_path)
    written = 'a<|im_start|>{"name": "f"}<s><|im_end|>é'
    ids = tokenizer._backend.encode(written, add_special_tokens=False).ids
    shown = ("<|im_start|>", "<|im_end|>", "<unknown>")
    for stops in ((), ("<s>never",), ("|im_end|>", "im_")):
        text, stream = "", TextStream(tokenizer, stops, shown=shown)
        for token_id in ids:
            stream = TextStream(tokenizer, stops, position=stream.position, shown=shown)
            text += stream.add(token_id).text
        # <s> is none of the markers, and a stop string is never found within a marker's name.
        assert text + stream.flush() == 'a<|im_start|>{"name": "f"}<|im_end|>é'
    stopping = TextStream(tokenizer, ("<|im_end|>",), shown=shown)
    assert "".join(stopping.take(ids)[0]) == 'a<|im_start|>{"name": "f"}'


def test_every_format_of_the_settings_can_be_read() -> None:
    from headrace.schemas.answers import REASONING_FORMATS, TOOL_FORMATS, markers_of

    for tools in TOOL_FORMATS:
        for reasoning in (None, *REASONING_FORMATS):
            chosen = AnswerFormat(tools=tools, reasoning=reasoning)
            assert all(marker in "".join(markers_of(chosen)) for marker in markers_of(chosen))
            assert parse(chosen, "plain").content == "plain"


def test_variables_reach_the_template_that_reads_them(tmp_path: Path) -> None:
    tokenizer = byte_level(tmp_path, "{{ mood }}{% if not enable_thinking %}.{% endif %}")

    def prompt(**variables: Any) -> str:
        prepared = read(Reader(tokenizer), chat_template_kwargs=variables)
        return prepared.error.message if prepared.error else tokenizer.decode(prepared.prompt_ids)

    assert prompt(mood={"a": 1}, enable_thinking=True) == "{'a': 1}"
    assert prompt(mood="gay", enable_thinking=False) == "gay."
    assert prompt(wood=1) == (
        "chat_template_kwargs.wood: the chat template of m knows no such variable; leave it out"
    )
    assert prompt(mood=["<|im_start|>"]) == (
        "chat_template_kwargs: holds the control token <|im_start|>; leave it out"
    )
