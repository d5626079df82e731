"""A large result is read in pieces, and says the same as one that is read in one go."""

import json
from typing import Any

import pytest

from headrace.schemas import output as output_module
from headrace.schemas.events import Choice, Output, PromptLogprob, TokenLogprob
from headrace.schemas.output import LARGE, is_large, read_output

ENTRY = {"token_id": 5, "token": 'é\n"[', "logprob": -1.5, "top": [(5, "é", -1.5), (6, "]", None)]}
COUNT = LARGE // 60


def large() -> Output:
    first = PromptLogprob(token_id=4, token="a", hex="ff")
    prompt = (first, *(PromptLogprob.model_validate(ENTRY) for _ in range(COUNT)))
    logprobs = tuple(TokenLogprob.model_validate(ENTRY) for _ in range(COUNT))
    return Output(
        text="x" * 50, finish_reason="stop", logprobs=logprobs, prompt_logprobs=prompt, embedding=(0.5, 1.25)
    )


def several() -> Output:
    logprobs = tuple(TokenLogprob.model_validate(ENTRY) for _ in range(COUNT // 2))
    choice = Choice(text="x", token_ids=(5,), finish_reason="length", logprobs=logprobs)
    last = Choice(text="é", finish_reason="stop")
    return Output(text="x", finish_reason="length", logprobs=logprobs, choices=(choice, choice, last))


def test_no_answer_of_several_is_decoded_in_one_go(monkeypatch):
    longest = 0

    def decode(text: str, at: int) -> tuple[Any, int]:
        nonlocal longest
        value, end = json.JSONDecoder().raw_decode(text, at)
        longest = max(longest, end - at)
        return value, end

    monkeypatch.setattr(output_module, "_decode", decode)
    assert read_output(several().model_dump_json()) == several()
    assert longest < 1000


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize(
    "output", [large(), several(), Output(text="é" * LARGE, finish_reason="length", logprobs=())]
)
def test_it_is_the_same(output, indent):
    text = output.model_dump_json(indent=indent)
    assert is_large(text)
    assert read_output(text) == output == Output.model_validate_json(text)


def damaged(cut: int | None = None, more: str = "", old: str = "", new: str = "") -> str:
    text = large().model_dump_json()
    return text[:cut].replace(old, new, 1) + more if old else text[:cut] + more


@pytest.mark.parametrize(
    "text",
    [
        damaged(cut=-1),
        damaged(cut=-20),
        damaged(cut=LARGE + 1000),
        damaged(more="}"),
        damaged(old="},{", new="} {"),
        damaged(old='"token_id":5', new='"token_id":"x"'),
        damaged(old='"stop"', new='"never"'),
        "[" + "1," * LARGE,
        " " * (LARGE + 1),
    ],
    ids=range(9),
)
def test_a_damaged_one_is_an_error(text):
    assert is_large(text)
    with pytest.raises(ValueError):
        read_output(text)
