"""Tokens become text that is final when it is sent, whatever the tokenizer and the grouping."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, normalizers

from headrace.workers.models import resolve_model
from headrace.workers.text import (
    ChatTemplateError,
    Detokenizer,
    StopStrings,
    TextStream,
    Tokenizer,
    TokenizerError,
)


@pytest.fixture(scope="module")
def byte_level() -> Tokenizer:
    return Tokenizer(resolve_model("demo"))


@pytest.fixture(scope="module")
def metaspace(tmp_path_factory) -> Tokenizer:
    """Like SentencePiece: words begin with ▁, and what is not in the vocabulary is spelt in bytes."""
    vocab = {"<unk>": 0, **{f"<0x{byte:02X}>": byte + 1 for byte in range(256)}}
    for piece in ("▁the", "▁a", "▁x", "e", "t", "h", "a", "▁", "s", "▁cat", "!", "ä"):
        vocab[piece] = len(vocab)
    backend = Backend(models.BPE(vocab, [], unk_token="<unk>", byte_fallback=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    folder = tmp_path_factory.mktemp("metaspace")
    backend.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    return Tokenizer(str(folder))


@pytest.fixture(params=["byte_level", "metaspace"])
def tokenizer(request) -> Tokenizer:
    return request.getfixturevalue(request.param)


def emitted(tokenizer: Tokenizer, ids: list[int]) -> list[str]:
    detokenizer = Detokenizer(tokenizer)
    return [*(detokenizer.add(token_id) for token_id in ids), detokenizer.flush()]


TEXTS = (
    "the cat's hats",
    "äöü ß ½",
    "日本語 テスト",
    "\N{WOMAN}\N{ZERO WIDTH JOINER}\N{GIRL} family \N{REGIONAL INDICATOR SYMBOL LETTER D}",
    "def f(x):\n\treturn x  # ok",
    " leading",
    "",
)


@pytest.mark.parametrize("text", TEXTS)
def test_the_pieces_join_to_the_whole(tokenizer, text):
    ids = tokenizer.encode(text)
    assert "".join(emitted(tokenizer, ids)) == tokenizer.decode(ids)


@given(text=st.text(max_size=60))
@settings(max_examples=150, deadline=None)
def test_any_text_comes_back_whole(byte_level, text):
    ids = byte_level.encode(text)
    assert "".join(emitted(byte_level, ids)) == byte_level.decode(ids)


@pytest.mark.parametrize("text", TEXTS)
def test_no_piece_of_real_text_holds_half_a_character(tokenizer, text):
    assert not any("�" in piece for piece in emitted(tokenizer, tokenizer.encode(text)))


@pytest.mark.parametrize("seed", range(20))
def test_random_tokens_lose_and_repeat_nothing(byte_level, seed):
    rng = random.Random(seed)
    ids = [rng.randrange(4096) for _ in range(40)]
    assert "".join(emitted(byte_level, ids)) == byte_level.decode(ids)


def test_what_was_emitted_is_a_function_of_the_tokens_alone(tokenizer):
    ids = tokenizer.encode("👩‍👩‍👧 the cat ä日本")
    whole = emitted(tokenizer, ids)
    for cut in range(len(ids)):
        again = Detokenizer(tokenizer)
        replayed = [again.add(token_id) for token_id in ids[:cut]]
        assert replayed == whole[:cut]


def test_bytes_that_form_no_character_are_held_only_so_long(metaspace):
    detokenizer = Detokenizer(metaspace)
    pieces = [detokenizer.add(0x80 + 1) for _ in range(200)]
    assert any(pieces)


@pytest.mark.parametrize(
    ("stops", "chunks", "text", "hit"),
    [
        (["END"], ["a E", "ND b"], "a ", "END"),
        (["END"], ["a E", "X"], "a EX", None),
        (["aab"], ["a", "a", "a", "b"], "a", "aab"),
        (["bc", "abcd"], ["a", "b", "c", "d"], "a", "bc"),
        (["x", "y"], ["1y2x"], "1", "y"),
        (["日本"], ["x日", "本y"], "x", "日本"),
        ([], ["a", "b"], "ab", None),
        (["\n\n"], ["line\n", "more\n", "\n"], "line\nmore", "\n\n"),
    ],
)
def test_stop_strings_are_found_over_chunk_borders(stops, chunks, text, hit):
    watcher, out, found = StopStrings(stops), "", None
    for chunk in chunks:
        piece, found = watcher.add(chunk)
        out += piece
        if found:
            break
    assert (out + ("" if found else watcher.flush()), found) == (text, hit)


@given(
    st.text(alphabet="ab", max_size=30), st.lists(st.text(alphabet="ab", min_size=1, max_size=4), max_size=3)
)
@settings(max_examples=200, deadline=None)
def test_nothing_of_a_stop_string_is_ever_let_out(text, stops):
    watcher, out = StopStrings(stops), ""
    for character in text:
        piece, hit = watcher.add(character)
        out += piece
        if hit:
            assert (out + hit) == text[: len(out + hit)]
            break
    else:
        assert out + watcher.flush() == text
    assert not any(stop in out for stop in stops)


def test_a_stream_ends_before_its_stop_string(byte_level):
    stream = TextStream(byte_level, ("cat",))
    out = ""
    for token_id in byte_level.encode("the cat sat"):
        emitted_ = stream.add(token_id)
        out += emitted_.text
        if emitted_.stop_hit:
            break
    assert out == "the "
    assert emitted_.stop_hit == "cat"


def test_a_chat_ends_where_the_assistant_speaks(byte_level):
    ids = byte_level.chat([{"role": "user", "content": "hi"}])
    assert (
        byte_level._backend.decode(ids, skip_special_tokens=False) == "<|user|>\nhi<|end|>\n<|assistant|>\n"
    )


def test_what_a_template_refuses_is_said_with_its_own_reason(byte_level):
    with pytest.raises(ChatTemplateError, match="unknown role wizard"):
        byte_level.chat([{"role": "wizard", "content": "hi"}])


def test_a_model_without_a_template_takes_no_messages(metaspace):
    with pytest.raises(ChatTemplateError, match="no chat template; send a prompt"):
        metaspace.chat([{"role": "user", "content": "hi"}])


def test_a_folder_without_a_tokenizer_is_refused(tmp_path):
    with pytest.raises(TokenizerError, match="can't be loaded"):
        Tokenizer(str(tmp_path))
