"""What a job may ask of its answer's form: OpenAI's and vLLM's fields, bounded and refused by name."""

import json

import pytest
from pydantic import BaseModel

from headrace import InvalidJob, Job
from headrace.schemas.response_format import MAX_CHOICES, MAX_GRAMMAR_BYTES
from headrace.schemas.wire import WireJob

GOOD = {"model": "m", "prompt": "x"}
SCHEMA = {"type": "object", "properties": {"b": {"type": "string"}, "a": {"type": "integer"}}}


class Person(BaseModel):
    name: str
    age: int


def named(schema: object = SCHEMA, **more: object) -> dict[str, object]:
    return {"type": "json_schema", "json_schema": {"name": "it", "schema": schema, **more}}


@pytest.mark.parametrize("asked", ["text", {"type": "text"}, {"type": "text", "json_schema": None}, None])
def test_text_costs_nothing_on_the_wire(asked):
    assert json.loads(WireJob.of(Job(**GOOD, response_format=asked)).to_wire()) == {"v": 1, **GOOD}


@pytest.mark.parametrize(
    ("fields", "wire"),
    [
        ({"response_format": "json_object"}, {"response_format": {"type": "json_object"}}),
        ({"response_format": named()}, {"response_format": named()}),
        (
            {"response_format": named(strict=None, description="d")},
            {"response_format": named(description="d")},
        ),
        ({"response_format": Person}, {"response_format": named(Person.model_json_schema(), strict=True)}),
        ({"structured_outputs": {"regex": "a+"}}, {"structured_outputs": {"regex": "a+"}}),
        (
            {"structured_outputs": {"json": Person}},
            {"structured_outputs": {"json": Person.model_json_schema()}},
        ),
        ({"structured_outputs": {"json": json.dumps(SCHEMA)}}, {"structured_outputs": {"json": SCHEMA}}),
        (
            {"structured_outputs": {"choice": ["a", "ü"], "regex": None, "json_object": False}},
            {"structured_outputs": {"choice": ["a", "ü"]}},
        ),
        ({"structured_outputs": {"json_object": True}}, {"structured_outputs": {"json_object": True}}),
    ],
)
def test_a_form_travels_as_it_was_asked_for_in_its_own_order(fields, wire):
    if fields.get("response_format") is Person:
        wire["response_format"]["json_schema"]["name"] = "Person"
    written = WireJob.of(Job(**GOOD, **fields)).to_wire()
    assert written == json.dumps({"v": 1, **GOOD, **wire}, ensure_ascii=False, separators=(",", ":"))
    assert WireJob.from_wire(written).to_wire() == written


def test_a_job_of_an_earlier_producer_reads_as_before():
    assert (
        WireJob.from_wire('{"v":1,"model":"m","prompt":"x","response_format":"text"}').response_format is None
    )


DEEP: dict[str, object] = {}
for _ in range(70):
    DEEP = {"items": DEEP}


@pytest.mark.parametrize(
    ("fields", "field", "words"),
    [
        ({"response_format": "json"}, "response_format.type", "'json_object' or 'json_schema' (got 'json')"),
        ({"response_format": {"type": "json_schema"}}, "response_format", "json_schema is missing"),
        (
            {"response_format": {"type": "json_object", "schema": {}}},
            "response_format.schema",
            "is not known",
        ),
        ({"response_format": named() | {"type": "text"}}, "response_format", "needs the type json_schema"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "a"}}},
            "response_format",
            "for any JSON object, ask for the type json_object",
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "a b", "schema": {}}}},
            "response_format.json_schema.name",
            "must be 1 to 64 letters, digits, _ or -",
        ),
        ({"response_format": named(DEEP)}, "response_format.json_schema.schema", "nested too deeply"),
        ({"response_format": named([])}, "response_format.json_schema.schema", "must be a dict"),
        (
            {"response_format": named({"const": "x" * MAX_GRAMMAR_BYTES})},
            "response_format.json_schema.schema",
            f"more than {MAX_GRAMMAR_BYTES}",
        ),
        ({"structured_outputs": {}}, "structured_outputs", "got none of them"),
        (
            {"structured_outputs": {"regex": "a", "choice": ["b"]}},
            "structured_outputs",
            "got regex and choice",
        ),
        ({"structured_outputs": {"regex": ""}}, "structured_outputs.regex", "must not be empty"),
        ({"structured_outputs": {"regex": "\ud800"}}, "structured_outputs.regex", "UTF-8"),
        ({"structured_outputs": {"choice": []}}, "structured_outputs.choice", "must not be empty"),
        ({"structured_outputs": {"choice": ["a", ""]}}, "structured_outputs.choice.1", "must not be empty"),
        (
            {"structured_outputs": {"choice": ["a"] * (MAX_CHOICES + 1)}},
            "structured_outputs.choice",
            f"at most {MAX_CHOICES} items",
        ),
        (
            {"structured_outputs": {"grammar": "ü" * MAX_GRAMMAR_BYTES}},
            "structured_outputs.grammar",
            f"{2 * MAX_GRAMMAR_BYTES} bytes",
        ),
        ({"structured_outputs": {"json": "{"}}, "structured_outputs.json", "not that of a JSON schema"),
        ({"structured_outputs": {"guided_json": {}}}, "structured_outputs.guided_json", "is not known"),
        (
            {"structured_outputs": {"regex": "a"}, "response_format": "json_object"},
            "job",
            "only one of response_format and structured_outputs",
        ),
        ({"structured_outputs": {"regex": "a"}, "allowed_token_ids": [1]}, "job", "allowed_token_ids"),
        ({"response_format": "json_object", "ignore_eos": True}, "job", "ignore_eos"),
    ],
)
def test_what_is_wrong_is_refused_by_field_with_a_way_out(fields, field, words):
    with pytest.raises(InvalidJob) as refused:
        Job.make(**GOOD, **fields)
    assert refused.value.field == field
    assert words in str(refused.value)
    assert len(str(refused.value)) < 500


def test_no_error_quotes_a_schema():
    with pytest.raises(InvalidJob) as refused:
        Job.make(**GOOD, response_format=named("my own words"))
    assert "my own words" not in str(refused.value)
