"""Words that must not be generated, of one token and of several, as transformers rules them out."""

import pytest
import torch

from headrace.engine import Request, RequestError, SamplingParams

from .conftest import NEW_TOKENS, _model, expected, prompt, run

BOTH = pytest.mark.parametrize("overlap", [False, True], ids=["plain", "overlapped"])


def ruling_out(words, **params):
    return SamplingParams(
        max_tokens=NEW_TOKENS, temperature=0.0, bad_words=tuple(map(tuple, words)), **params
    )


def transformers_without(ids, words):
    """transformers' greedy tokens; the words count within the output alone, as in vLLM."""
    found = []
    for _ in range(NEW_TOKENS):
        with torch.inference_mode():
            logits = _model("llama")(torch.tensor([[*ids, *found]])).logits[0, -1]
        logits = logits.clone()
        for word in words:
            begun = len(found) >= len(word) - 1 and found[len(found) - len(word) + 1 :] == list(word[:-1])
            if begun:
                logits[word[-1]] = -torch.inf
        found.append(int(logits.argmax()))
    return found


def words_of(tokens):
    """Words that the tokens contain, the longer ones with beginnings that come about as well."""
    return [tokens[2:3], tokens[4:6], tokens[7:11], [tokens[5], 299], [*tokens[9:12], 298]]


@BOTH
def test_what_is_ruled_out_is_as_with_transformers_beside_others(make_engine, overlap):
    plain = {length: expected("llama", prompt(length)) for length in (1, 16, 31)}
    words = {length: words_of(tokens) for length, tokens in plain.items()}
    requests = [Request(f"w{length}", list(prompt(length)), ruling_out(words[length])) for length in plain]
    others = [Request(f"o{length}", list(prompt(length)), ruling_out([])) for length in plain]
    outputs = run(make_engine(overlap=overlap), *requests, *others)
    for length, tokens in plain.items():
        assert outputs[f"w{length}"] == transformers_without(prompt(length), words[length]) != tokens
        assert outputs[f"o{length}"] == tokens


@BOTH
@pytest.mark.parametrize("generated", [1, 6, 10])
def test_a_resumed_request_knows_what_has_begun(make_engine, overlap, generated):
    words = words_of(expected("llama", prompt(31)))
    whole = transformers_without(prompt(31), words)
    again = Request("r", list(prompt(31)), ruling_out(words), output_ids=whole[:generated])
    assert run(make_engine(overlap=overlap), again)["r"] == whole[generated:]


@BOTH
def test_a_word_that_begins_in_the_prompt_is_not_one(make_engine, overlap):
    ids, tokens = prompt(16), expected("llama", prompt(16))
    outputs = run(make_engine(overlap=overlap), Request("r", list(ids), ruling_out([[ids[-1], tokens[0]]])))
    assert outputs["r"] == tokens


@pytest.mark.parametrize("word", [(), (5, 300)])
def test_a_word_without_tokens_or_of_unknown_ones_is_refused(make_engine, word):
    with pytest.raises(RequestError, match="bad_words"):
        make_engine().submit(Request("r", [5], ruling_out([word])))
