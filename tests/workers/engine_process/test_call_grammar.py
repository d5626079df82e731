"""An answer that has to call a tool is a call, whatever its model would rather write."""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import AddedToken

from headrace.schemas.answers import AnswerFormat, markers_of, parse
from headrace.schemas.wire import WireJob
from headrace.workers.engine_process.intake.reader import Reader
from headrace.workers.engine_process.prepared import Asked, Prepared
from headrace.workers.engine_process.text import GrammarError, Grammars, Tokenizer
from headrace.workers.engine_process.text.call_grammar import ENFORCED

from .tokenizers_of import byte_level

PARAMETERS = {
    "type": "object",
    "properties": {"n": {"type": "integer"}, "sure": {"type": "boolean"}},
    "required": ["n", "sure"],
    "additionalProperties": False,
}
TOOLS = [
    {"type": "function", "function": {"name": "f", "parameters": PARAMETERS, "strict": True}},
    {"type": "function", "function": {"name": "g", "parameters": {"type": "object", "properties": {}}}},
]
USER = [{"role": "user", "content": "hi"}]
F = {"type": "function", "function": {"name": "f"}}


def reader_of(
    folder: Path, tools: str, reasoning: str, *, tokens: bool, template: str = "{{ tools | tojson }}"
) -> tuple[Tokenizer, Reader]:
    """A reader whose tokenizer has the markers as tokens of their own, or doesn't."""
    tokenizer = byte_level(folder, template)
    if tokens:
        markers = dict.fromkeys(markers_of(AnswerFormat(tools=tools, reasoning=reasoning)))
        special = tools in ("mistral", "harmony")
        added = [AddedToken(marker, special=special, normalized=False) for marker in markers]
        (tokenizer._backend.add_special_tokens if special else tokenizer._backend.add_tokens)(added)
        tokenizer = type(tokenizer)(saved(tokenizer, folder))
    return tokenizer, Reader(tokenizer, tool_call_parser=tools, reasoning_parser=reasoning)


def saved(tokenizer: Tokenizer, folder: Path) -> str:
    tokenizer._backend.save(str(folder / "tokenizer.json"))
    return str(folder)


def read(reader: Reader, **fields: Any) -> Prepared:
    job = WireJob.make(model="m", messages=USER, tools=TOOLS, **fields)
    return reader.read(Asked("j", job.to_wire().encode(), 9000))


def written_at_random(tokenizer: Tokenizer, grammar: str, seed: int) -> str:
    """What a model writes that knows nothing: any token that may come, and the end as soon as it may."""
    follower = Grammars(tokenizer).follow(grammar)
    mask, chance, ids = (
        np.zeros(-(-len(tokenizer._backend.get_vocab()) // 32), np.int32),
        random.Random(seed),
        [],
    )
    end = tokenizer.eos_token_id
    while True:
        follower.fill(mask)
        bits = np.unpackbits(mask.view(np.uint8), bitorder="little")
        allowed = np.flatnonzero(bits).tolist()
        if end in allowed:
            return tokenizer.spelt_out(ids)
        ids.append(chance.choice(allowed))
        follower.take(ids[-1:])
        assert len(ids) < 5000


@pytest.mark.parametrize(
    ("tools", "tokens"),
    [(tools, tokens) for tools in ENFORCED for tokens in (True, False) if tokens or tools != "harmony"],
)
def test_a_model_that_knows_nothing_writes_a_call(tmp_path: Path, tools: str, tokens: bool) -> None:
    reasoning = "harmony" if tools == "harmony" else "none"
    tokenizer, reader = reader_of(tmp_path, tools, reasoning, tokens=tokens)
    for seed, choice in enumerate(["required", F]):
        prepared = read(reader, tool_choice=choice, parallel_tool_calls=False)
        assert prepared.error is None
        assert prepared.grammar is not None
        text = written_at_random(tokenizer, prepared.grammar, seed)
        message = parse(AnswerFormat.model_validate(prepared.answer_format), text)
        (call,) = message.calls
        assert (message.content, call.name in ("f", "g")) == ("", True)
        if choice == F or call.name == "f":
            assert (call.name, set(json.loads(call.arguments))) == ("f", {"n", "sure"})


@pytest.mark.parametrize("tokens", [True, False])
def test_reasoning_comes_before_the_call(tmp_path: Path, tokens: bool) -> None:
    tokenizer, reader = reader_of(tmp_path, "hermes", "think", tokens=tokens)
    grammar = read(reader, tool_choice="required").grammar
    call = '<tool_call>\n{"name": "g", "arguments": {}}\n</tool_call>'
    for text in (call, f"{call}\n{call}", f"<think>\nHm.\n</think>\n\n{call}"):
        ids = tokenizer._backend.encode(text, add_special_tokens=False).ids
        assert Grammars(tokenizer).follow(grammar, ids).taken == len(ids)


@pytest.mark.parametrize("tokens", [True, False])
def test_an_answer_that_must_have_a_form_may_be_a_call_instead(tmp_path: Path, tokens: bool) -> None:
    tokenizer, reader = reader_of(tmp_path, "hermes", "none", tokens=tokens)
    call, form = '<tool_call>\n{"name": "g", "arguments": {}}\n</tool_call>', '{"n":3,"sure":true}'
    named = {"type": "json_schema", "json_schema": {"name": "x", "schema": PARAMETERS}}
    for asked in (
        {"response_format": named},
        {"structured_outputs": {"json": PARAMETERS}},
        {"structured_outputs": {"regex": r"\{[^}]+\}"}},
        {"structured_outputs": {"choice": [form, "no"]}},
        {"structured_outputs": {"grammar": f"start: A\nA: {json.dumps(form)}"}},
    ):
        for choice, may_be in (("auto", (call, form)), ("required", (call,)), ("none", (form,))):
            prepared = read(reader, tool_choice=choice, **asked)
            assert prepared.error is None
            for text in (call, form, "Hm."):
                ids = tokenizer._backend.encode(text, add_special_tokens=False).ids
                if text in may_be:
                    assert Grammars(tokenizer).follow(prepared.grammar, ids).taken == len(ids)
                else:
                    with pytest.raises(GrammarError):
                        Grammars(tokenizer).follow(prepared.grammar, ids)


@pytest.mark.parametrize("tokens", [True, False])
@pytest.mark.parametrize("begun", [True, False])
def test_a_form_is_behind_the_reasoning_that_the_model_marks(
    tmp_path: Path, *, begun: bool, tokens: bool
) -> None:
    template = "{{ tools | tojson }}" + ("<think>\n" if begun else "")
    tokenizer, reader = reader_of(tmp_path, "hermes", "think", tokens=tokens, template=template)
    thought, form = "Three { or so.</think>\n\n", '{"n":3,"sure":true}'
    call = '<tool_call>\n{"name": "g", "arguments": {}}\n</tool_call>'
    opened = thought if begun else f"<think>\n{thought}"
    for choice, may_be in (("auto", (form, call)), ("none", (form,))):
        prepared = read(reader, tool_choice=choice, structured_outputs={"json": PARAMETERS})
        assert prepared.error is None
        assert prepared.answer_format is not None
        for text in may_be:
            ids = tokenizer._backend.encode(opened + text, add_special_tokens=False).ids
            assert Grammars(tokenizer).follow(prepared.grammar, ids).complete
            answer = parse(AnswerFormat.model_validate(prepared.answer_format), opened + text)
            assert answer.reasoning == thought.partition("</think>")[0]
            assert answer.content == (form if text == form else "")
        wrong = tokenizer._backend.encode(f"{opened}Hm.", add_special_tokens=False).ids
        with pytest.raises(GrammarError):
            Grammars(tokenizer).follow(prepared.grammar, wrong)


def test_an_answer_has_its_form_where_a_call_can_not_be_enforced(tmp_path: Path) -> None:
    _, reader = reader_of(tmp_path, "gemma", "none", tokens=False)
    asked = {"response_format": {"type": "json_object"}}
    assert read(reader, **asked).grammar == read(reader, tool_choice="none", **asked).grammar


def test_a_call_that_can_not_be_enforced_is_refused_by_name(tmp_path: Path) -> None:
    for tools in ("none", "gemma"):
        _, reader = reader_of(tmp_path, tools, "none", tokens=False)
        error = read(reader, tool_choice="required").error
        assert error is not None
        assert error.message.startswith("tool_choice: calls ")
        assert read(reader, tool_choice="auto").error is None


def test_a_strict_function_whose_schema_can_not_be_enforced_is_refused(tmp_path: Path) -> None:
    _, reader = reader_of(tmp_path, "hermes", "none", tokens=False)
    odd = {"type": "object", "properties": {"x": {"type": "array", "uniqueItems": True}}}
    for strict in (True, False):
        tools = [{"type": "function", "function": {"name": "f", "parameters": odd, "strict": strict}}]
        job = WireJob.make(model="m", messages=USER, tools=tools, tool_choice="required")
        error = reader.read(Asked("j", job.to_wire().encode(), 9000)).error
        assert (error is not None) is strict
        assert error is None or error.message == (
            "tools.0.function.parameters: that of f can't be enforced: Unimplemented keys: "
            '["uniqueItems"]; change the schema, or leave its strict out'
        )


def test_a_form_that_can_not_be_enforced_is_named_and_not_the_tools_beside_it(tmp_path: Path) -> None:
    _, reader = reader_of(tmp_path, "hermes", "none", tokens=True)
    error = read(reader, structured_outputs={"grammar": "start: nix"}).error
    assert error is not None
    assert error.message.startswith('structured_outputs: at 1(8): unknown name: "nix"')
