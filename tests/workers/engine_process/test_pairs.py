"""How a query and a document become one prompt."""

import json

import pytest

from headrace.workers.engine_process.text import ChatTemplateError, Tokenizer
from headrace.workers.engine_process.text.pairs import QWEN3_RERANKER, read_template, words_of
from headrace.workers.models import resolve_model

CARD = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the "
    'Instruct provided. Note that the answer can only be "yes" or "no".<|im_end|>\n'
    "<|im_start|>user\n<Instruct>: Given a web search query, retrieve relevant passages that answer the "
    "query\n"
    "<Query>: {q}\n<Document>: {d}<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
)
"""What the model card of Qwen3-Reranker makes of a query and a document."""


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer(resolve_model("demo"))


@pytest.mark.parametrize(("setting", "by_words"), [(None, True), (QWEN3_RERANKER, False)])
def test_words_are_asked_for_as_the_model_card_of_qwen3_reranker_does(tokenizer, setting, by_words):
    query, document = "What is {{ 1 + 1 }}?", "Two.\n\n"
    ids = tokenizer.encode_pair(query, document, read_template(setting, by_words=by_words))
    assert tokenizer.spelt_out(ids) == CARD.format(q=query, d=document)


def test_without_a_template_the_document_follows_the_query(tokenizer):
    assert read_template(None, by_words=False) is None
    assert tokenizer.encode_pair("a b", " c", None) == tokenizer.encode("a b c")


def test_a_template_that_fails_is_an_error_of_its_own(tokenizer):
    with pytest.raises(ChatTemplateError, match="template of queries and documents failed: no"):
        tokenizer.encode_pair("a", "b", "{{ raise_exception('no') }}")


def test_a_template_that_can_not_be_read_is_refused_by_its_setting(tmp_path):
    with pytest.raises(ValueError, match=r"score_template: .*can't be read .*give a file"):
        read_template(str(tmp_path / "none.jinja"), by_words=True)
    (tmp_path / "large.jinja").write_text("x" * (2**20 + 1))
    with pytest.raises(ValueError, match="larger than 1,048,576 bytes"):
        read_template(str(tmp_path / "large.jinja"), by_words=False)


def test_config_json_names_the_words_unless_the_operator_does(tmp_path):
    assert words_of(None, tmp_path) is None
    (tmp_path / "config.json").write_text(json.dumps({"classifier_from_token": ["no", "yes"]}))
    assert words_of(None, tmp_path) == ("no", "yes")
    assert words_of(("false", "true"), tmp_path) == ("false", "true")
    (tmp_path / "config.json").write_text(json.dumps({"classifier_from_token": ["no"]}))
    with pytest.raises(ValueError, match="must be two words, those for no and yes"):
        words_of(None, tmp_path)
