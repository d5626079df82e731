"""What a reader makes of a job's prompt, tools and log."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from headrace.schemas.events import chunk_payload
from headrace.workers.engine_process.intake import reader as reader_module
from headrace.workers.engine_process.intake.reader import Reader
from headrace.workers.engine_process.prepared import Asked, Prepared
from headrace.workers.engine_process.text import TextStream

from ..tokenizers_of import byte_level, word_pieces
from .conftest import CONTEXT, spec_of

WITH_TOOLS = "{{ tools | tojson }}{{ messages[0].content }}"
USER = [{"role": "user", "content": "hi"}]
TOOL = {"type": "function", "function": {"name": "f", "parameters": {}}}


def read(reader: Reader, log: list[bytes] = [], offset: int = 0, **fields: Any) -> Prepared:  # noqa: B006
    return reader.read(Asked("j", spec_of(**fields), CONTEXT, offset, log))


@pytest.mark.parametrize(
    ("template", "tools", "refused"),
    [
        (WITH_TOOLS, [TOOL], None),
        ("{{ messages[0].content }}", [TOOL], "tools: the chat template of demo does nothing with tools"),
        ("{{ messages[0].content }}", [], None),
    ],
)
def test_tools_are_refused_where_they_would_be_lost(tmp_path: Path, template, tools, refused):
    reader = Reader(byte_level(tmp_path, template))
    prepared = read(reader, prompt=None, messages=USER, tools=tools)
    if refused is None:
        assert prepared.error is None
        assert (prepared.prompt_tokens > 2) is bool(tools)
    else:
        assert (prepared.error.code, prepared.error.message[: len(refused)]) == ("invalid_job", refused)


@pytest.mark.parametrize("text", [" there was", "there was"], ids=["as now", "as before"])
def test_a_stream_goes_on_with_the_text_that_its_readers_have(tmp_path: Path, text):
    tokenizer = word_pieces(tmp_path)
    ids = [tokenizer._backend.token_to_id(token) for token in ("▁there", "▁was", "▁a")]
    log = [chunk_payload(2, [text, ""], ids[:2], None).encode()]
    replay = read(Reader(tokenizer), log, 2, prompt="the").replay
    stream = TextStream(tokenizer, position=replay.position)
    assert "".join(replay.pieces) + stream.add(ids[2]).text == f"{text} a"


def test_log_probabilities_are_read_from_a_log_as_they_were_written(tmp_path: Path):
    tokenizer = byte_level(tmp_path)
    entry = {"token_id": 5, "token": "\ufffd", "logprob": -1.0, "top": [[5, "\ufffd", -1.0]]}
    entry |= {"hex": "c3", "top_hex": ["c3"]}
    log = [chunk_payload(1, [""], [5], [entry]).encode()]
    (read_again,) = read(Reader(tokenizer), log, 1, logprobs=1).replay.logprobs
    assert json.loads(json.dumps(read_again)) == entry


def test_a_grammar_that_takes_long_to_compile_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(reader_module, "COMPILE_S", 0.0)
    prepared = read(Reader(byte_level(tmp_path)), structured_outputs={"json": {"multipleOf": 997}})
    assert re.match(r"structured_outputs: compiling it takes .* s; at most", prepared.error.message)


def test_a_job_of_the_tokenizer_is_answered_by_reading_it(tmp_path: Path):
    reader = Reader(
        byte_level(tmp_path, "{{ messages[0].content }}{% if add_generation_prompt %}>{% endif %}")
    )

    def told(prompt: dict[str, Any], **task: Any) -> Any:
        prepared = Prepared.from_wire(read(reader, tokenizer=task, **prompt).to_wire())
        return prepared.told or prepared.error.message

    whole = told({"prompt": None, "messages": USER}, kind="tokenize", token_strs=True)
    assert (len(whole.token_ids), whole.token_strs, whole.text) == (3, ["h", "i", ">"], "")
    begun = told({"prompt": None, "messages": USER}, kind="tokenize", add_generation_prompt=False)
    assert (begun.token_ids, begun.token_strs) == (whole.token_ids[:2], None)
    ids = {"prompt": None, "prompt_token_ids": whole.token_ids}
    assert told(ids, kind="detokenize").text == "hi>"
    assert "99999 is not in" in told(ids | {"prompt_token_ids": [99_999]}, kind="detokenize")


@pytest.mark.parametrize(
    ("asked", "left"),
    [
        ({}, "abcdef"),
        ({"truncate_prompt_tokens": 4}, "cdef"),
        ({"truncate_prompt_tokens": 4, "truncation_side": "right"}, "abcd"),
        ({"truncate_prompt_tokens": 9}, "abcdef"),
    ],
)
def test_a_prompt_keeps_as_many_tokens_as_it_may(tmp_path: Path, asked, left):
    tokenizer = byte_level(tmp_path)
    prepared = read(Reader(tokenizer), prompt="abcdef", **asked)
    assert prepared.prompt_ids == tokenizer.encode(left)
    assert prepared.prompt_tokens == len(left)


@pytest.mark.parametrize("template", [None, "{{ messages[0].content }}:{{ messages[1].content }}!"])
@pytest.mark.parametrize(
    ("asked", "left"),
    [({"truncation_side": "right"}, "de"), ({"truncation_side": "left"}, "gh"), ({}, "gh")],
)
def test_of_a_query_and_a_document_only_the_document_is_cut(tmp_path: Path, template, asked, left):
    tokenizer = byte_level(tmp_path)
    whole = "abc:{}!" if template else "abc{}"
    reader = Reader(tokenizer, score_template=template)
    prepared = read(reader, prompt="abc", document="defgh", truncate_prompt_tokens=len(whole), **asked)
    assert prepared.prompt_ids == tokenizer.encode(whole.format(left))
    much = read(reader, prompt="abc", document="defgh" * CONTEXT, truncate_prompt_tokens=len(whole), **asked)
    assert much.prompt_tokens == len(whole)


def test_a_query_that_leaves_its_document_no_room_is_refused_by_name(tmp_path: Path):
    prepared = read(Reader(byte_level(tmp_path)), prompt="abc", document="defgh", truncate_prompt_tokens=3)
    assert prepared.error.code == "invalid_job"
    assert re.match("truncate_prompt_tokens: 3 leaves nothing of the document", prepared.error.message)


def test_a_continuation_without_tokens_is_shown_in_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    tokenizer = byte_level(tmp_path)
    encode = tokenizer.encode
    monkeypatch.setattr(
        tokenizer, "encode", lambda text, **how: [] if text[0] == " " else encode(text, **how)
    )
    prepared = read(Reader(tokenizer), prompt="abc", continuation=" " * 10_000)
    assert prepared.error.message.startswith("continuation: '   ")
    assert len(prepared.error.message) < 300


def test_a_prompt_that_is_cut_may_be_longer_than_the_context(tmp_path: Path):
    prepared = read(Reader(byte_level(tmp_path)), prompt="ab" * 10 * CONTEXT, truncate_prompt_tokens=3)
    assert (prepared.error, prepared.prompt_tokens) == (None, 3)


def test_bad_words_become_the_tokens_that_they_have_in_a_text_and_at_its_beginning(tmp_path: Path):
    tokenizer = word_pieces(tmp_path)
    prepared = read(Reader(tokenizer), prompt="a", bad_words=["was", " was"])
    was = tokenizer._backend.token_to_id("▁was")
    assert [was] in Prepared.from_wire(prepared.to_wire()).bad_words
    whole = read(Reader(byte_level(tmp_path)), prompt="a", bad_words=["hi"])
    assert whole.bad_words == [byte_level(tmp_path).encode("hi")]
