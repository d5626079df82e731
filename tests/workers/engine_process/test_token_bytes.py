"""Single tokens in log-probabilities: their own bytes, and a text that can be told from others."""

import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models

from headrace.engine import TokenLogprobs
from headrace.schemas.events import TokenLogprob
from headrace.workers.engine_process.running_job import wire_logprobs
from headrace.workers.engine_process.text import TokenText

from .tokenizers_of import byte_level, word_pieces


@pytest.mark.parametrize("kind", [byte_level, word_pieces])
@pytest.mark.parametrize("text", ["é😀", "日本 a\n", "the there"])
def test_the_bytes_of_all_tokens_join_to_those_of_the_text(tmp_path, kind, text):
    tokenizer = kind(tmp_path)
    joined = b"".join(map(tokenizer.token_bytes, tokenizer.encode(text)))
    assert joined.removeprefix(b" ").decode() == text


def test_a_word_with_a_space_before_it_is_told_from_one_without(tmp_path):
    tokenizer = word_pieces(tmp_path)
    ids = [tokenizer._backend.token_to_id(token) for token in ("▁the", "the", "<s>")]
    assert [tokenizer.token_text(token_id) for token_id in ids] == [" the", "the", "<s>"]
    assert tokenizer.token_bytes(10**6) == b""


def test_a_tokenizer_of_another_kind_is_asked(tmp_path):
    backend = Backend(models.WordPiece({"[UNK]": 0, "play": 1, "##ing": 2}, unk_token="[UNK]"))
    backend.decoder = decoders.WordPiece()
    assert TokenText(backend).token_text(1) == "play"
    assert TokenText(Backend(models.WordLevel({"a": 0}, unk_token="a"))).token_bytes(0) == b"a"


def test_bytes_travel_where_the_text_does_not_say_them(tmp_path):
    tokenizer = byte_level(tmp_path)
    first, second = tokenizer.encode("é")
    plain = tokenizer.encode("a")[0]
    (wire,) = wire_logprobs(tokenizer, [TokenLogprobs(first, -0.5, [(first, -0.5), (plain, -1.0)])])
    entry = TokenLogprob.model_validate(wire)
    assert (entry.token, entry.bytes, entry.top_bytes) == ("�", b"\xc3", (b"\xc3", b"a"))
    (wire,) = wire_logprobs(tokenizer, [TokenLogprobs(plain, -0.5, [(plain, -0.5)])])
    assert wire.keys() == {"token_id", "token", "logprob", "top"}
    assert TokenLogprob.model_validate(wire).top_bytes == (b"a",)
    assert second != first
