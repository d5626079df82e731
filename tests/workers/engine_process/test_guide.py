"""An answer is guided where that matters: reasoning ends in time, calls that have begun are well-formed."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headrace.engine.sampling.constraint import refuse_second_mask
from headrace.schemas.answers import AnswerFormat, ParsedAnswer, parse
from headrace.schemas.wire import WireJob
from headrace.workers.engine_process.intake.requests import Requests
from headrace.workers.engine_process.prepared import Asked, Prepared, Replay
from headrace.workers.engine_process.text import Follower, GrammarError, Grammars, Tokenizer
from headrace.workers.engine_process.text.call_grammar import ENFORCED
from headrace.workers.engine_process.text.guide import Guidance, Guide
from headrace.workers.engine_process.text.reasoning_span import reasoning_tokens

from .test_call_grammar import TOOLS, USER, read, reader_of

BEGINNINGS = {
    "hermes": "Let me look. <tool_call>",
    "qwen3_coder": "Let me look. <tool_call>",
    "glm": "Let me look.\n<tool_call>f\n",
    "mistral": "Let me look.[TOOL_CALLS]",
    "deepseek": "Let me look.<｜tool▁calls▁begin｜>",
    "llama3_json": ' {"name": "{F}"',
    "harmony": "<|channel|>analysis<|message|>Hm. to=functions<|end|>"
    "<|start|>assistant<|channel|>commentary to=functions",
}
FORMATS = [(name, tokens) for name in ENFORCED for tokens in (True, False) if tokens or name != "harmony"]


class Answer:
    """An answer as it is written, with a second guide that is told all of it anew at each token."""

    def __init__(self, tokenizer: Tokenizer, prepared: Prepared) -> None:
        assert prepared.error is None, prepared.error
        assert prepared.guidance is not None
        self.tokenizer, self.prepared, self.ids = tokenizer, prepared, list[int]()
        self.grammars = Grammars(tokenizer)
        self.guide = self.fresh()
        self.mask = np.zeros(-(-len(tokenizer._backend.get_vocab()) // 32), np.int32)

    def fresh(self) -> Guide:
        guidance = Guidance.from_wire(json.loads(json.dumps(self.prepared.guidance)))
        call = guidance.opening and self.grammars.follow(guidance.opening.grammar)
        grammar = self.prepared.grammar
        whole = None if grammar is None else self.grammars.follow(grammar)
        return Guide(guidance, self.tokenizer.token_bytes, whole, call or None)

    def allowed(self) -> list[int] | None:
        """The tokens that may come next; None if all may."""
        rules = self.guide.fill(self.mask)
        mine = self.mask.copy()
        if len(self.ids) % 11 == 0:
            again = self.fresh()
            again.take(self.ids)
            assert again.fill(self.mask) == rules
            assert not rules or (self.mask == mine).all()
        if not rules:
            return None
        return np.flatnonzero(np.unpackbits(mine.view(np.uint8), bitorder="little")).tolist()

    def write(self, text: str) -> None:
        for token_id in self.tokenizer._backend.encode(text, add_special_tokens=False).ids:
            allowed = self.allowed()
            assert allowed is None or token_id in allowed
            self.take(token_id)

    def take(self, token_id: int) -> None:
        self.ids.append(token_id)
        self.guide.take([token_id])

    def write_at_random(self, seed: int) -> None:
        """Any token that may come, until all may, or the answer may end."""
        chance = random.Random(seed)
        while (allowed := self.allowed()) is not None and self.tokenizer.eos_token_id not in allowed:
            self.take(chance.choice(allowed))
            assert len(self.ids) < 3000

    def parsed(self) -> ParsedAnswer:
        return parse(
            AnswerFormat.model_validate(self.prepared.answer_format), self.tokenizer.spelt_out(self.ids)
        )


Begun = Callable[..., Answer]


@pytest.fixture
def begun(tmp_path: Path) -> Begun:
    def made(tools: str = "hermes", reasoning: str = "none", tokens: bool = True, **fields: Any) -> Answer:
        tokenizer, reader = reader_of(tmp_path, tools, reasoning, tokens=tokens)
        return Answer(tokenizer, read(reader, **fields))

    return made


@pytest.mark.parametrize(("tools", "tokens"), FORMATS)
def test_a_call_that_has_begun_is_well_formed(begun: Begun, tools: str, tokens: bool) -> None:
    reasoning = "harmony" if tools == "harmony" else "none"
    for seed in range(2):
        answer = begun(tools, reasoning, tokens)
        answer.write(BEGINNINGS[tools].replace("{F}", "fg"[seed]))
        assert answer.allowed() is not None
        answer.write_at_random(seed)
        message = answer.parsed()
        (call,) = message.calls[:1]
        assert call.name in ("f", "g")
        arguments = json.loads(call.arguments)
        assert isinstance(arguments, dict)
        if call.name == "f":  # it is strict
            assert (type(arguments["n"]), type(arguments["sure"])) == (int, bool)
        goes_on = tools not in ("llama3_json", "harmony")
        assert (answer.allowed() is None) is goes_on


@pytest.mark.parametrize(("tools", "tokens"), FORMATS)
def test_one_call_ends_the_answer_if_one_is_wanted(begun: Begun, tools: str, tokens: bool) -> None:
    reasoning = "harmony" if tools == "harmony" else "none"
    answer = begun(tools, reasoning, tokens, parallel_tool_calls=False)
    answer.write(BEGINNINGS[tools].replace("{F}", "f"))
    answer.write_at_random(5)
    assert answer.allowed() == [answer.tokenizer.eos_token_id]
    assert len(answer.parsed().calls) == 1


def test_calls_may_follow_each_other_with_text_between_them(begun: Begun) -> None:
    answer = begun()
    for _ in range(2):
        answer.write('I call <tool_call>\n{"name": "g", "arguments": {"a": [1]}}\n</tool_call>\n and')
    assert [call.arguments for call in answer.parsed().calls] == ['{"a": [1]}'] * 2


def test_nothing_is_ruled_out_where_no_call_has_begun(begun: Begun) -> None:
    for tokens in (True, False):
        answer = begun(tokens=tokens)
        answer.write("A <tool_cal and a <tool_cal")
        assert answer.allowed() is None
    answer = begun("llama3_json")
    answer.write('{"name": "nobody"')
    assert answer.allowed() is None
    answer = begun("hermes", "think")
    answer.write("<think>\n<tool_call>")
    assert answer.allowed() is None
    answer.write("\n</think>\nNow <tool_call>")
    assert answer.allowed() is not None


@pytest.mark.parametrize("tokens", [True, False])
def test_reasoning_ends_when_its_budget_is_spent(begun: Begun, tokens: bool) -> None:
    answer = begun("hermes", "think", tokens, max_reasoning_tokens=5)
    answer.write("<think>Hmmmm")
    answer.write_at_random(0)
    assert (answer.parsed().reasoning, answer.parsed().content) == ("Hmmmm", "")
    answer.write("\nYes. <tool_call>")
    answer.write_at_random(0)
    assert (answer.parsed().content, len(answer.parsed().calls)) == ("Yes.", 1)
    counted = reasoning_tokens(answer.prepared.answer_format, answer.ids, answer.tokenizer.token_bytes)
    assert counted == (5 if tokens else 5 + len("</think"))


def test_a_budget_of_nothing_closes_reasoning_at_once(begun: Begun) -> None:
    answer = begun("hermes", "think", max_reasoning_tokens=0)
    answer.write("<think>")
    assert answer.allowed() == [answer.tokenizer.added_token("</think>")]


def test_a_required_call_follows_when_the_budget_is_spent(begun: Begun) -> None:
    answer = begun("hermes", "think", max_reasoning_tokens=3, tool_choice="required")
    answer.write("<think>Hmm</think>")
    answer.write_at_random(1)
    assert (answer.parsed().reasoning, len(answer.parsed().calls)) == ("Hmm", 1)


def test_channels_of_reasoning_share_a_budget(begun: Begun) -> None:
    answer = begun("harmony", "harmony", max_reasoning_tokens=4)
    answer.write("<|channel|>analysis<|message|>Hmmm")
    answer.write("<|end|><|start|>assistant")
    assert answer.allowed() is None
    answer.write("<|channel|>analysis<|message|>")
    answer.write("<|end|><|start|>assistant<|channel|>final<|message|>")
    assert answer.allowed() is None
    answer.write("Yes.")
    assert (answer.parsed().reasoning, answer.parsed().content) == ("Hmmm", "Yes.")


def test_a_budget_needs_a_model_that_marks_its_reasoning(tmp_path: Path) -> None:
    _, reader = reader_of(tmp_path, "hermes", "none", tokens=True)
    error = read(reader, max_reasoning_tokens=7).error
    assert error is not None
    assert error.message == "max_reasoning_tokens: m marks no reasoning; leave it out (got 7)"


@pytest.mark.parametrize("choice", ["auto", "required"])
def test_reasoning_does_not_end_within_a_character_where_all_has_a_form(begun: Begun, choice: str) -> None:
    answer = begun("hermes", "think", max_reasoning_tokens=1, tool_choice=choice)
    first, *others = answer.tokenizer._backend.encode("é", add_special_tokens=False).ids
    answer.write("<think>")
    answer.take(first)
    if choice == "required":  # its grammar follows characters
        assert others[0] in (answer.allowed() or ())
        answer.take(others[0])
    assert answer.allowed() == [answer.tokenizer.added_token("</think>")]


def test_what_is_sent_to_functions_in_plain_text_is_no_call(begun: Begun) -> None:
    answer = begun("harmony", "harmony", max_reasoning_tokens=0)
    answer.write("I write to=functions.f <|channel|>analysis<|message|>, and that is text.")
    assert answer.allowed() is None
    assert (answer.parsed().reasoning, answer.parsed().calls) == ("", ())


UNIQUE = {"type": "object", "properties": {"x": {"type": "array", "uniqueItems": True}}}


def test_calls_that_nobody_required_fail_no_job(
    begun: Begun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, reader = reader_of(tmp_path, "hermes", "none", tokens=True)
    odd = {"type": "function", "function": {"name": "f", "parameters": UNIQUE, "strict": True}}
    job = WireJob.make(model="m", messages=USER, tools=[odd])
    prepared = reader.read(Asked("j", job.to_wire().encode(), 9000))
    assert prepared.error is None
    assert prepared.guidance is not None  # its calls are well-formed all the same
    assert prepared.guidance["opening"] is not None

    answer = begun()
    answer.write("<tool_call>")

    def too_much(*_: object) -> bool:
        raise GrammarError("following the answer's grammar took too long")

    monkeypatch.setattr(Follower, "fill", too_much)
    assert answer.guide.fill(answer.mask) is False


def test_a_parameter_may_be_named_like_a_rule(tmp_path: Path) -> None:
    _, reader = reader_of(tmp_path, "qwen3_coder", "none", tokens=True)
    schema = {"type": "object", "properties": {"anyvalue": {"type": "integer", "title": "anyname:"}}}
    tools = [
        {"type": "function", "function": {"name": "f", "parameters": schema, "strict": True}},
        {"type": "function", "function": {"name": "g"}},
    ]
    job = WireJob.make(model="m", messages=USER, tools=tools)
    guidance = reader.read(Asked("j", job.to_wire().encode(), 9000)).guidance
    assert guidance is not None
    assert "anyname: /" in guidance["opening"]["grammar"]


def test_a_prompt_is_scored_beside_an_answer_that_has_ended(begun: Begun) -> None:
    answer = begun()
    job = WireJob.make(model="m", messages=USER, tools=TOOLS, stop=["b"], prompt_logprobs=0)
    answer.prepared.replay = Replay(token_ids=[1, 2], logged=2, stopped=True)
    for ended in (None, "stop"):
        answer.prepared.replay.finish_reason = ended
        requests = Requests(answer.tokenizer, answer.grammars, None)
        (request,) = requests.of("j", job, answer.prepared)
        assert (request.params.max_tokens, request.output_ids) == (0, [])
        refuse_second_mask(request)
