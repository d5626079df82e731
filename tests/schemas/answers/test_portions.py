"""What is told after some text depends on that text alone."""

import json
import random
from itertools import pairwise

import pytest

from headrace.schemas.answers import (
    TOOL_FORMATS,
    AnswerFormat,
    AnswerParser,
    Arguments,
    Content,
    Delta,
)
from headrace.schemas.answers.parser import joined, parse

from .test_formats import NO_CALLS, ONE_CALL, SEVERAL

TEXTS = [
    *(
        pytest.param(tools, text, id=f"{at}-{tools}")
        for at, (tools, text) in enumerate(ONE_CALL + SEVERAL + NO_CALLS)
    ),
]

PIECES = [
    *(
        "<tool_call>",
        "</tool_call>",
        '{"name": "f", "arguments": ',
        '{"x": [1, "}"]}',
        "}",
        "<function=f>",
        "</function>",
    ),
    *(
        "<parameter=x>",
        "</parameter>",
        "\n",
        " ",
        "é",
        "😀",
        '"',
        "\\",
        "[TOOL_CALLS]",
        "[ARGS]",
        "f",
        "[",
        "]",
        "(",
        ")",
    ),
    *(
        "<|channel|>",
        "analysis",
        "final",
        "<|message|>",
        "<|end|>",
        "to=functions.f ",
        "<|start|>assistant",
        "x=1,",
    ),
    *(
        "<think>",
        "</think>",
        "<arg_key>x</arg_key>",
        "<arg_value>",
        "</arg_value>",
        "```json\n",
        ";",
        "call:f{",
        ":",
    ),
    *(
        "<｜tool▁calls▁begin｜>",
        "<｜tool▁call▁begin｜>",
        "<｜tool▁sep｜>",
        "<｜tool▁call▁end｜>",
        "<start_function_call>",
    ),
    *("<escape>", "<end_function_call>", "a", "1", "true", ","),
]


def told(answer_format: AnswerFormat, text: str, cuts: list[int]) -> list[list[Delta]]:
    """The deltas of each portion."""
    parser = AnswerParser(answer_format)
    portions = [parser.feed(text[start:stop]) for start, stop in pairwise([0, *cuts, len(text)])]
    return [*portions, parser.end()]


def flat(portions: list[list[Delta]]) -> list[Delta]:
    return joined(delta for portion in portions for delta in portion)


@pytest.mark.parametrize(("tools", "text"), TEXTS)
def test_any_portions_tell_the_same(tools: str, text: str) -> None:
    answer_format = AnswerFormat(tools=tools, reasoning="think", values={"weather": {"days": "json"}})
    at_once = flat(told(answer_format, text, []))
    one_by_one = told(answer_format, text, list(range(1, len(text))))
    assert flat(one_by_one) == at_once
    for cut in range(1, len(text)):
        # A reader that joins at the cut has what one who read character by character had there.
        first, *_ = told(answer_format, text, [cut])
        assert first == flat(one_by_one[:cut])


@pytest.mark.parametrize("tools", TOOL_FORMATS)
def test_whatever_a_model_writes_the_portions_do_not_matter(tools: str) -> None:
    # Of its own generator: hypothesis refuses to run beside threads that use the common one.
    chance = random.Random(tools)
    for _ in range(60):
        text = "".join(chance.choices(PIECES, k=chance.randrange(25)))
        begun, single = chance.random() < 0.3, chance.random() < 0.3
        answer_format = AnswerFormat(tools=tools, reasoning="think", begun=begun, single=single)
        cuts = sorted(chance.choices(range(len(text) + 1), k=8))
        portions = told(answer_format, text, cuts)
        assert flat(portions) == flat(told(answer_format, text, []))
        for at, cut in enumerate(cuts):
            first, *_ = told(answer_format, text, [cut])
            assert flat(portions[: at + 1]) == first


def test_arguments_are_told_while_they_are_written() -> None:
    parser = AnswerParser(AnswerFormat(tools="hermes"))
    parser.feed('<tool_call>\n{"name": "f", "arguments": ')
    pieces = ['{"te', 'xt": "a', " b", ' c"}']
    assert [parser.feed(piece) for piece in pieces] == [[Arguments(0, piece)] for piece in pieces]
    assert json.loads("".join(pieces)) == {"text": "a b c"}


def test_reading_takes_time_in_proportion_to_the_text() -> None:
    # A quadratic one would take minutes.
    for text in (
        '{"a":' * 100_000,
        '"' + "\\" * 400_000,
        "<tool_call>" * 40_000,
        " \n" * 200_000,
        "[" * 400_000,
    ):
        for tools in ("hermes", "llama3_json", "pythonic", "mistral", "gemma"):
            parser = AnswerParser(AnswerFormat(tools=tools, reasoning="think"))
            parser.feed('<tool_call>{"name": "f", "arguments": ')
            parser.feed(text)
            parser.end()


def test_white_space_is_looked_at_once() -> None:
    # It would take minutes, and this test its time limit, if each portion looked at all that is held back.
    parser, text = AnswerParser(AnswerFormat(tools="hermes")), "a" + " " * 400_000
    portions = [parser.feed(text[at : at + 2]) for at in range(0, len(text), 2)]
    assert flat([*portions, parser.end()]) == [Content(text)]


def test_an_answer_of_many_pieces_is_put_together_once() -> None:
    # It too would take minutes if each piece were added to all before.
    text = "<tool_call>" * 1_000_000
    assert parse(AnswerFormat(tools="hermes"), text).content == text
