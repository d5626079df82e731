"""Tokens become text that is final when it is sent, whatever the tokenizer and the grouping."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, normalizers, processors
from transformers import AutoTokenizer

from headrace.workers.engine_process.text import (
    ChatTemplateError,
    Detokenizer,
    StopStrings,
    TextStream,
    Tokenizer,
    TokenizerError,
)
from headrace.workers.models import resolve_model


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


BYTES = st.integers(5, 260)
"""The built-in tokenizer's tokens of one byte each: most sequences of them are no UTF-8."""


@given(ids=st.lists(BYTES | st.integers(0, 4200), max_size=80))
@settings(max_examples=300, deadline=None)
def test_random_tokens_lose_and_repeat_nothing(byte_level, ids):
    assert "".join(emitted(byte_level, ids)) == byte_level.decode(ids)


@given(ids=st.lists(BYTES, min_size=17, max_size=80))
@settings(max_examples=100, deadline=None)
def test_bytes_without_sense_lose_and_repeat_nothing(byte_level, ids):
    assert "".join(emitted(byte_level, ids)) == byte_level.decode(ids)


@given(text=st.text(max_size=60))
@settings(max_examples=150, deadline=None)
def test_any_text_comes_back_whole_through_single_bytes(metaspace, text):
    assume("�" not in text)
    ids = metaspace.encode(text)
    pieces = emitted(metaspace, ids)
    assert "".join(pieces) == metaspace.decode(ids)
    assert not any("�" in piece for piece in pieces)


@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_pieces_and_characters_spelt_in_bytes_mix(metaspace, data):
    piece = st.integers(257, 268).map(lambda token_id: [token_id])
    spelt = st.characters(codec="utf-8").map(lambda character: [byte + 1 for byte in character.encode()])
    ids = [token_id for ids in data.draw(st.lists(piece | spelt, max_size=40)) for token_id in ids]
    assume("�" not in metaspace.decode(ids))
    assert "".join(emitted(metaspace, ids)) == metaspace.decode(ids)


@pytest.mark.parametrize("token_id", [0, 132, 9999], ids=["special", "half a character", "unknown"])
def test_a_long_run_of_tokens_without_text_costs_no_more_a_token(byte_level, token_id):
    class Measured:
        longest = 0
        lengths = byte_level.lengths

        def decode(self, ids: list[int]) -> str:
            self.longest = max(self.longest, len(ids))
            return byte_level.decode(ids)

    assert byte_level.decode([token_id]) in {"", "�"}
    measured = Measured()
    detokenizer = Detokenizer(measured)
    for _ in range(500):
        detokenizer.add(token_id)
    assert measured.longest <= 16


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
        (["bc", "abcd"], ["abcd"], "a", "bc"),
        (["c", "abc"], ["ab", "c"], "", "abc"),
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


AB = st.text(alphabet="ab", min_size=1, max_size=4)


@given(stops=st.lists(AB, max_size=4), pieces=st.lists(AB, max_size=12))
@settings(max_examples=300, deadline=None)
def test_as_much_as_is_sure_is_let_out_however_the_text_was_cut(stops, pieces):
    watcher, out, read = StopStrings(stops), "", ""
    for piece in pieces:
        let_out, hit = watcher.add(piece)
        out, before, read = out + let_out, read, read + piece
        ends = [end for end in range(1, len(read) + 1) if read[:end].endswith(tuple(stops))]
        if ends:
            assert hit == max((stop for stop in stops if read[: ends[0]].endswith(stop)), key=len)
            assert (out + hit, len(before) < ends[0]) == (read[: ends[0]], True)
            return
        doubtful = (read[at:] for at in range(len(read) + 1) if any(s.startswith(read[at:]) for s in stops))
        assert (out + next(doubtful, ""), hit) == (read, None)
    assert out + watcher.flush() == read


def spoken(stream: TextStream, token_ids: list[int]) -> tuple[str, int, str | None]:
    """The text, after how many tokens it ended, and by which stop string."""
    out = ""
    for count, token_id in enumerate(token_ids, 1):
        emitted_ = stream.add(token_id)
        out += emitted_.text
        if emitted_.stop_hit:
            return out, count, emitted_.stop_hit
    return out + stream.flush(), len(token_ids), None


@pytest.mark.parametrize(
    ("stops", "min_tokens", "expected"),
    [
        (("c",), 0, ("ab", 3, "c")),
        (("c",), 3, ("ab", 3, "c")),  # three tokens are there when it ends
        (("c",), 4, ("abcdefghab", 11, "c")),
        (("c",), 10, ("abcdefghab", 11, "c")),
        (("hab",), 10, ("abcdefg", 10, "hab")),  # it begins before and is complete then
        (("hab",), 11, ("abcdefghabcdefg", 18, "hab")),
        (("efghabcd",), 9, ("abcd", 12, "efghabcd")),
        (("bc", "abcd"), 3, ("a", 3, "bc")),
        (("bc", "abcd"), 4, ("", 4, "abcd")),
        (("c",), 20, ("abcdefghabcdefghabcd", 20, None)),
        (("d",), 20, ("abcdefghabcdefghabc", 20, "d")),
    ],
)
def test_no_stop_string_is_heeded_that_is_complete_before_min_tokens(byte_level, stops, min_tokens, expected):
    ids = [i for character in "abcdefghabcdefghabcd" for i in byte_level.encode(character)]
    assert len(ids) == 20
    assert spoken(TextStream(byte_level, stops, min_tokens), ids) == expected


@given(
    text=st.text(alphabet="abé", min_size=1, max_size=30),
    stops=st.lists(AB, max_size=3),
    min_tokens=st.integers(0, 20),
)
@settings(max_examples=300, deadline=None)
def test_min_tokens_and_stop_strings_agree_with_a_plain_search(byte_level, text, stops, min_tokens):
    ids = [i for character in text for i in byte_level.encode(character)]
    detokenizer, read, wanted = Detokenizer(byte_level), "", None
    for count, token_id in enumerate(ids, 1):
        before, read = read, read + detokenizer.add(token_id)
        ends = [end for end in range(len(before) + 1, len(read) + 1) if read[:end].endswith(tuple(stops))]
        if stops and ends and count >= min_tokens:
            hit = max((stop for stop in stops if read[: ends[0]].endswith(stop)), key=len)
            wanted = (read[: ends[0] - len(hit)], count, hit)
            break
    assert spoken(TextStream(byte_level, stops, min_tokens), ids) == (wanted or (text, len(ids), None))


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


def altered(folder: Path, **changes: object) -> str:
    """The built-in model's tokenizer with parts of its tokenizer.json replaced."""
    demo = Path(resolve_model("demo"))
    for name in ("config.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(demo / name, folder)
    whole = json.loads((demo / "tokenizer.json").read_text()) | changes
    (folder / "tokenizer.json").write_text(json.dumps(whole))
    return str(folder)


def test_a_prompt_is_neither_cut_nor_filled_up(byte_level, tmp_path):
    truncation = {"max_length": 4, "strategy": "LongestFirst", "direction": "Right", "stride": 0}
    padding = {"strategy": {"Fixed": 64}, "direction": "Right", "pad_to_multiple_of": None}
    padding |= {"pad_id": 0, "pad_type_id": 0, "pad_token": "<|endoftext|>"}
    asked = Tokenizer(altered(tmp_path, truncation=truncation, padding=padding))
    text = "a prompt of more than four tokens, and of fewer than sixty-four"
    assert asked.encode(text) == byte_level.encode(text)


def test_prompts_get_the_special_tokens_of_the_tokenizer_and_chats_those_of_the_template(
    byte_level, tmp_path
):
    opening = processors.TemplateProcessing(single="<|system|> $A", special_tokens=[("<|system|>", 1)])
    tokenizer = Tokenizer(altered(tmp_path, post_processor=json.loads(opening.__getstate__())))
    assert tokenizer.encode("hi") == [1, *byte_level.encode("hi")]
    messages = [{"role": "user", "content": "hi"}]
    assert tokenizer.chat(messages) == byte_level.chat(messages)


def test_a_tokenizers_fingerprint_follows_what_it_does_and_what_its_template_says(byte_level, tmp_path):
    same, split, spoken = (tmp_path / name for name in ("same", "split", "spoken"))
    for folder in (same, split, spoken):
        folder.mkdir()
    own = Tokenizer(altered(same)).fingerprint
    assert own == byte_level.fingerprint
    assert Tokenizer(altered(split, normalizer={"type": "Lowercase"})).fingerprint != own
    altered(spoken)
    with (spoken / "chat_template.jinja").open("a") as template:
        template.write("!")
    assert Tokenizer(str(spoken)).fingerprint != own


def test_a_damaged_tokenizer_is_refused(tmp_path):
    with pytest.raises(TokenizerError, match="can't be loaded: data did not match"):
        Tokenizer(altered(tmp_path, model={"type": "none that exists"}))


def test_a_folder_without_a_tokenizer_is_refused(tmp_path):
    with pytest.raises(TokenizerError, match="can't be loaded"):
        Tokenizer(str(tmp_path))


def test_the_class_taken_without_asking_is_the_one_transformers_takes(byte_level):
    theirs = AutoTokenizer.from_pretrained(resolve_model("demo"))
    assert byte_level._backend.to_str() == theirs.backend_tokenizer.to_str()
    assert byte_level._hf.chat_template == theirs.chat_template
    assert byte_level._hf.special_tokens_map == theirs.special_tokens_map
    assert type(byte_level._hf) is type(theirs)


START = """
import sys
from headrace.engine import Engine, EngineConfig
from headrace.workers.engine_process import main as engine_process
from headrace.workers.models import resolve_model
Engine(EngineConfig(resolve_model("demo"), num_pages=9, threads=1))
print(*({"torch._dynamo", "triton", "transformers"} & sys.modules.keys()))
"""


INTAKE = """
import sys
from headrace.workers.engine_process.intake import process
from headrace.workers.models import resolve_model
process.Tokenizer(resolve_model("demo")).chat([{"role": "user", "content": "hi"}])
print(*({"torch", "transformers.configuration_utils"} & sys.modules.keys()))
"""


def test_intake_starts_without_torch():
    started = subprocess.run([sys.executable, "-c", INTAKE], capture_output=True, text=True, check=True)
    assert started.stdout.split() == []


def test_an_engine_starts_without_what_only_models_of_transformers_need():
    started = subprocess.run([sys.executable, "-c", START], capture_output=True, text=True, check=True)
    assert started.stdout.split() == []
