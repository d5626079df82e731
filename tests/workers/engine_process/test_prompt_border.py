"""Prompt and answer are one text: what stands before the first token decides what that token says."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.workers.engine_process.text import TextStream, Tokenizer, held_after

from .tokenizers_of import SPECIALS, byte_level, word_pieces


@pytest.fixture(scope="module", params=[byte_level, word_pieces])
def tokenizer(request, tmp_path_factory) -> Tokenizer:
    return request.param(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def words(tmp_path_factory) -> Tokenizer:
    return word_pieces(tmp_path_factory.mktemp("tokenizer"))


def answer(tokenizer: Tokenizer, prompt: list[int], ids: list[int], *, whole: bool = True) -> str:
    stream = TextStream(tokenizer, after=held_after(tokenizer, prompt, whole=whole))
    return "".join(stream.add(token_id).text for token_id in ids) + stream.flush()


def named(tokenizer: Tokenizer, *tokens: str) -> list[int]:
    return [tokenizer._backend.token_to_id(token) for token in tokens]


def test_the_first_word_keeps_the_space_before_it(words):
    ids = named(words, "▁there", "▁was", "▁a", "▁river", ".")
    assert answer(words, words.encode("the"), ids) == " there was a river."
    assert answer(words, words.encode("the"), ids[:1]) == " there"
    assert answer(words, words.encode("the"), named(words, "s")) == "s"


def test_the_first_word_of_a_text_has_none(words):
    assert answer(words, named(words, "<s>"), named(words, "▁there")) == "there"


TEXT = st.text(alphabet="the s.ä😀\n", max_size=12)


@given(prompt=TEXT, text=TEXT, special=st.sampled_from(["", *SPECIALS]))
@settings(max_examples=200, deadline=None)
def test_prompt_and_answer_join_to_the_text_of_all_tokens(tokenizer, prompt, text, special):
    before = tokenizer.encode(prompt) + named(tokenizer, *([special] if special else []))
    ids = tokenizer.encode(text)
    whole = tokenizer.decode(before + ids)
    assert tokenizer.decode(before) + answer(tokenizer, before, ids) == whole


def test_a_character_that_the_prompt_begins_is_shown_whole(tokenizer):
    ids = tokenizer.encode("😀!")
    begun = next(at for at in range(len(ids)) if tokenizer.decode(ids[:at]).endswith("�"))
    assert answer(tokenizer, ids[:begun], ids[begun:], whole=False) == "😀!"


def test_a_replacement_character_at_the_end_of_a_prompt_is_no_part_of_the_answer(tokenizer):
    assert answer(tokenizer, tokenizer.encode("a�"), tokenizer.encode("s")[-1:]) == "s"


def test_a_stream_goes_on_from_its_position_with_what_stands_before(words):
    ids = named(words, "▁there", "▁was", "▁a", "▁river", ".")
    whole = answer(words, words.encode("the"), ids)
    for cut in range(len(ids)):
        first = TextStream(words, after=held_after(words, words.encode("the"), whole=True))
        said = "".join(first.add(token_id).text for token_id in ids[:cut])
        second = TextStream(words, position=first.position)
        said += "".join(second.add(token_id).text for token_id in ids[cut:]) + second.flush()
        assert said == whole
