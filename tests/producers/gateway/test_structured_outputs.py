"""Answers of a form that was asked for, through OpenAI's own client; a kill in the middle changes no byte."""

import json
import re
from typing import Literal

import jsonschema
import openai
import pytest
from openai import OpenAI
from pydantic import BaseModel, Field

from ...support.processes import kill_engine_of
from ...support.waiting import wait_until

pytestmark = [pytest.mark.serial, pytest.mark.xdist_group("gateway"), pytest.mark.usefixtures("worker")]

MESSAGES = [{"role": "user", "content": "Describe a person."}]
CHAT = {"model": "demo", "messages": MESSAGES, "seed": 1, "max_tokens": 1500}
LISTED = {
    "type": "object",
    "properties": {
        "items": {
            "type": "array",
            "minItems": 30,
            "maxItems": 30,
            "items": {"enum": ["alpha", "beta", "gamma"]},
        }
    },
    "required": ["items"],
    "additionalProperties": False,
}
"""Long enough to be killed in the middle of it."""


class Person(BaseModel):
    name: str = Field(max_length=20)
    age: int = Field(ge=0, le=150)
    mood: Literal["good", "bad"]


@pytest.fixture
def client(shared_gateway):
    with OpenAI(base_url=shared_gateway.base_url, api_key="-", max_retries=0) as client:
        yield client


def test_openais_client_parses_a_chat_into_a_model(client):
    answer = client.chat.completions.parse(**CHAT, response_format=Person)
    assert answer.choices[0].finish_reason == "stop"
    assert isinstance(answer.choices[0].message.parsed, Person)


def test_openais_client_parses_a_response_into_a_model_and_is_told_the_format(client):
    response = client.responses.parse(
        model="demo", input="Describe a person.", text_format=Person, max_output_tokens=1500
    )
    assert isinstance(response.output_parsed, Person)
    assert response.text.format.name == "Person"
    assert response.text.format.strict is True


def test_a_streamed_chat_has_the_form_too(client):
    with client.chat.completions.stream(**CHAT, response_format=Person) as stream:
        parsed = stream.get_final_completion().choices[0].message.parsed
    assert isinstance(parsed, Person)


def test_vllms_structured_outputs_are_an_extension_of_chats_and_completions(client):
    chat = client.chat.completions.create(
        **CHAT, extra_body={"structured_outputs": {"choice": ["yes", "no"]}}
    )
    assert chat.choices[0].message.content in ("yes", "no")
    completion = client.completions.create(
        model="demo", prompt="A date:", extra_body={"structured_outputs": {"regex": r"\d{4}-\d\d"}}
    )
    assert re.fullmatch(r"\d{4}-\d\d", completion.choices[0].text)


def test_a_keyword_that_can_not_be_enforced_is_named(client):
    schema = {"type": "array", "items": {"type": "integer"}, "uniqueItems": True}
    form = {"type": "json_schema", "json_schema": {"name": "unique", "schema": schema, "strict": True}}
    with pytest.raises(openai.APIStatusError, match="uniqueItems"):
        client.chat.completions.create(**CHAT, response_format=form)


def test_max_tokens_leaves_a_beginning_of_the_form(client):
    form = {"type": "json_schema", "json_schema": {"name": "listed", "schema": LISTED}}
    whole = client.chat.completions.create(**CHAT, response_format=form)
    cut = client.chat.completions.create(**CHAT | {"max_tokens": 9}, response_format=form)
    assert cut.choices[0].finish_reason == "length"
    assert whole.choices[0].message.content.startswith(cut.choices[0].message.content)


def test_a_job_whose_worker_is_killed_within_a_schema_goes_on_byte_for_byte(jobs, slow_steps):
    asked = {
        "model": "demo",
        "messages": MESSAGES,
        "seed": 3,
        "max_tokens": 1500,
        "response_format": {"type": "json_schema", "json_schema": {"name": "listed", "schema": LISTED}},
    }
    undisturbed = jobs.enqueue(**asked).result()
    jsonschema.validate(json.loads(undisturbed.text), LISTED)
    with slow_steps():
        job = jobs.enqueue(**asked)
        wait_until(lambda: job.status().offset >= 8)
        kill_engine_of(job, jobs)
        assert not job.status().state.terminal
    result = job.result(timeout_s=90)
    assert (result.text, result.token_ids) == (undisturbed.text, undisturbed.token_ids)
    assert result.finish_reason == "stop"
    wait_until(jobs.workers)
