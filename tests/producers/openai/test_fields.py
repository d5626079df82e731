"""Every field of OpenAI's requests is honoured, without effect, or refused by name."""

from typing import Any

import pytest
from openai.types import completion_create_params, embedding_create_params
from openai.types.chat import chat_completion_stream_options_param
from openai.types.chat import completion_create_params as chat_params
from tests.support.openai_types import fields_of

from headrace import InvalidJob
from headrace.producers.openai.chat import FIELDS as CHAT
from headrace.producers.openai.completions import FIELDS as COMPLETIONS
from headrace.producers.openai.embeddings import FIELDS as EMBEDDINGS
from headrace.producers.openai.fields import Fields
from headrace.producers.openai.options import AnswerOptions, answer_options
from headrace.producers.openai.rerank import RERANK, SCORE
from headrace.schemas.job import Job


@pytest.mark.parametrize(
    ("fields", "request_type"),
    [
        (CHAT, chat_params.CompletionCreateParams),
        (COMPLETIONS, completion_create_params.CompletionCreateParams),
        (EMBEDDINGS, embedding_create_params.EmbeddingCreateParams),
    ],
    ids=["chat", "completions", "embeddings"],
)
def test_every_field_of_openais_requests_has_been_thought_about(fields: Fields, request_type: Any) -> None:
    assert fields_of(request_type) - fields.known == set()


@pytest.mark.parametrize(
    "fields",
    [CHAT, COMPLETIONS, EMBEDDINGS, SCORE, RERANK],
    ids=["chat", "completions", "embeddings", "score", "rerank"],
)
def test_a_field_has_one_fate(fields: Fields) -> None:
    fates = [fields.passed, fields.read.keys(), fields.neutral.keys(), fields.refused.keys()]
    assert sum(map(len, fates)) == len(frozenset().union(*fates))
    assert fields.passed <= Job.model_fields.keys()


def test_every_stream_option_has_been_thought_about() -> None:
    for name in fields_of(chat_completion_stream_options_param.ChatCompletionStreamOptionsParam):
        answer_options({"stream": True, "stream_options": {name: False}})


def test_options_say_how_to_answer() -> None:
    asked = {
        "stream": True,
        "stream_options": {"include_usage": True},
        "store": True,
        "return_token_ids": None,
    }
    assert answer_options(asked) == AnswerOptions(stream=True, include_usage=True, store=True)
    assert answer_options({}) == AnswerOptions()


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"stream": "yes"}, "stream"),
        ({"store": 1}, "store"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"stream": True, "stream_options": []}, "stream_options"),
        ({"stream": True, "stream_options": {"include_usage": 1}}, "stream_options.include_usage"),
        (
            {"stream": True, "stream_options": {"include_obfuscation": True}},
            "stream_options.include_obfuscation",
        ),
        ({"stream": True, "stream_options": {"include": True}}, "stream_options.include"),
    ],
)
def test_wrong_options_are_refused_by_name(body: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidJob) as caught:
        answer_options(body)
    assert caught.value.field == field
