"""What may be asked, and what only travels: no way leads from a user's dict to what headrace itself adds."""

import json
from typing import Any

import pytest

from headrace import InvalidJob, Job
from headrace.schemas.celery_task import is_signed, read_headers, sign_part, task_job_id
from headrace.schemas.job import SCHEMA_VERSION
from headrace.schemas.plain_json import DEEPEST
from headrace.schemas.wire import WireJob

GOOD = {"model": "m", "prompt": "hello"}
CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
PART = json.dumps({"headers": {"id": "t"}, "embed": {"callbacks": []}, "properties": {}})
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = {"a": value}
    return value


@pytest.mark.parametrize("field", ["celery", "v"])
def test_what_only_travels_can_not_be_asked_for(field):
    with pytest.raises(InvalidJob) as error:
        Job.make(**GOOD, **{field: PART})
    assert error.value.field == field
    assert "t" not in error.value.reason.split("got")[1].replace("characters", "")


def test_what_is_asked_for_travels_with_nothing_beside_it():
    wire = WireJob.of(Job.make(**GOOD))
    assert (wire.v, wire.celery) == (SCHEMA_VERSION, None)
    made_unchecked = Job.model_construct(**GOOD, celery=PART)
    assert WireJob.of(made_unchecked).celery is None


def test_no_name_of_a_field_is_taken_for_one_of_pythons():
    with pytest.raises(InvalidJob) as error:
        Job.make(**GOOD, cls=1)
    assert error.value.field == "cls"


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (nested(300), f"nested too deeply; at most {DEEPEST} levels"),
        (nested(100_000), "nested too deeply"),
        ({"a": ["x", "\ud800"]}, "a lone surrogate"),
        ({"\udfff": 1}, "a lone surrogate"),
        ({"a": float("nan")}, "nan"),
        ({"a": float("-inf")}, "-inf"),
        ({"a": 10**5000}, "whole number"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.parametrize("place", ["tools", "extra"])
def test_json_that_would_not_survive_the_way_is_refused_where_it_stands(place, value, words):
    message: dict[str, Any] = {"role": "user", "content": "hi"}
    fields: dict[str, Any] = {"model": "m", "messages": [message]}
    if place == "tools":
        fields["tools"] = [value]
    else:
        message["tool_calls"] = value
    with pytest.raises(InvalidJob) as error:
        Job.make(**fields)
    assert error.value.field.startswith("tools.0" if place == "tools" else "messages.0")
    assert words in error.value.reason


def test_json_as_deep_as_may_be_arrives_as_it_is():
    job = Job.make(**CHAT, tools=[{"name": "f", "parameters": nested(DEEPEST - 1)}])
    assert WireJob.from_wire(WireJob.of(job).to_wire()).tools == job.tools


def test_half_a_character_in_a_message_is_refused():
    with pytest.raises(InvalidJob) as error:
        Job.make(model="m", messages=[{"role": "user", "content": "\ud83d"}])
    assert error.value.field.startswith("messages.0.content")


@pytest.mark.parametrize("value", [nested(100_000), 10**5000, [10**5000], object()], ids=["", "", "", ""])
@pytest.mark.parametrize("field", ["temperature", "top_k", "stop", "webhook", "metadata", "seed", "model"])
def test_whatever_is_wrong_is_named_and_not_quoted_at_length(field, value):
    if field == "top_k" and value == 10**5000:
        value = -value
    with pytest.raises(InvalidJob) as error:
        Job.make(**{**GOOD, field: value})
    assert error.value.field.startswith(field)
    assert len(str(error.value)) < 300


def test_what_was_changed_after_it_was_checked_is_refused_when_it_is_written():
    job = Job.make(**CHAT, tools=[{"name": "f", "a": 1}])
    assert job.tools is not None
    job.tools[0]["a"] = "\ud800"
    with pytest.raises(InvalidJob, match="can't be written as JSON"):
        WireJob.of(job).to_wire()


@pytest.mark.parametrize(
    "fields",
    [
        {"webhook": f"https://user:{SECRET}@host.example/hook?token={SECRET}"},
        {"webhook": [f"https://host.example/hook?token={SECRET}"]},
        {"webhook": {"url": f"ftp://user:{SECRET}@host.example/x"}},
        {"webhook": {"url": f"ftp://us/er:{SECRET}@host.example"}},
        {"webhook": {"url": f"ftp://host.example/{SECRET}"}},
        {"webhook": {"url": f"{SECRET}"}},
        {"webhook": {"url": [SECRET]}},
        {"webhook": {"url": "https://x.example", "secret": f"{SECRET}\ud800"}},
        {"webhook": {"url": "https://x.example", "secret": {"a": SECRET}}},
        {"webhook": {"url": "https://x.example", "events": [SECRET]}},
        {"webhook": {"url": "https://x.example", "payload": SECRET}},
        {"webhook": {"url": "https://x.example", SECRET: 1}},
        {"webhook": {SECRET: SECRET}},
        {"celery": SECRET},
        {"celery": {"headers": SECRET}},
        {"metadata": {"a": [SECRET]}},
        {"metadata": SECRET},
        {"metadata": {SECRET * 3: "x"}},
        {"idempotency_key": f"{SECRET} {SECRET}"},
        {"tenant": f"https://user:{SECRET}@host"},
        {"prompt": {"text": SECRET}},
        {"stop": [[SECRET]]},
        {"model": {"api_key": SECRET}},
        {"response_format": {"secret": SECRET}},
        {"seed": SECRET},
        {SECRET: 1},
    ],
    ids=str,
)
def test_no_error_quotes_a_secret_wherever_it_was_put(fields):
    with pytest.raises(InvalidJob) as error:
        Job.make(**{**GOOD, **fields})
    assert SECRET not in str(error.value) + repr(error.value.args)


def test_a_password_without_a_mark_is_not_quoted_from_an_address():
    with pytest.raises(InvalidJob) as error:
        Job.make(**GOOD, webhook={"url": "ftp://user:Hidden/cret42@host.example/x?token=cret43"})
    assert "Hidden" not in str(error.value)
    assert "cret4" not in str(error.value)


def test_only_the_tasks_own_job_has_its_signature():
    job_id = task_job_id(read_headers(PART), "m", 1)
    signed = sign_part(PART, job_id, b"key")
    assert json.loads(signed).items() > json.loads(PART).items()
    assert is_signed(signed, job_id, b"key")
    assert not is_signed(PART, job_id, b"key")
    assert not is_signed(signed, "another", b"key")
    assert not is_signed(signed, job_id, b"another")
    assert not is_signed(signed.replace('"callbacks": []', '"callbacks": [1]'), job_id, b"key")


@pytest.mark.parametrize(
    "part",
    [
        "[" * 100_000,
        json.dumps({"headers": {"id": "t"}, "embed": nested(300), "properties": {}}),
        json.dumps({"headers": {"id": 7}, "embed": {}, "properties": {}}),
        json.dumps({"headers": {"id": "t", "argsrepr": 7}, "embed": {}, "properties": {}}),
        json.dumps({"headers": {"id": "t", "retries": "x"}, "embed": {}, "properties": {}}),
        json.dumps({"headers": {"id": "t" * 300}, "embed": {}, "properties": {}}),
        json.dumps({"headers": {"id": "\ud800"}, "embed": {}, "properties": {}}),
        json.dumps({"headers": {"id": "t"}, "embed": [], "properties": {}}),
    ],
    ids=lambda part: part[:40],
)
def test_a_damaged_message_of_a_task_is_refused_where_a_job_is_read(part):
    spec = json.dumps({"v": 1, **GOOD, "celery": part})
    with pytest.raises(InvalidJob) as error:
        WireJob.from_wire(spec)
    assert error.value.field == "celery"


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"messages": []}, "can't set messages"),
        ({"chat_template": "{{ 1 }}"}, "can't set chat_template"),
        ({"a b": 1}, "has the name 'a b'"),
        ({"a": "é" * 9000}, "is larger than 16 KiB"),
        ({"a": [[[[[[[[[1]]]]]]]]]}, "is nested deeper than 8 levels"),
        ({f"a{number}": 1 for number in range(65)}, "at most 64"),
        ({"a": float("nan")}, "chat_template_kwargs"),
    ],
    ids=lambda given: given[:12] if isinstance(given, str) else "",
)
def test_variables_of_a_template_are_bounded(given: dict[str, object], reason: str) -> None:
    chat = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
    with pytest.raises(InvalidJob, match=reason):
        Job.make(**chat, chat_template_kwargs=given)
    deep = {"a": [[[[[[[1]]]]]]]}
    assert Job.make(**chat, chat_template_kwargs=deep).chat_template_kwargs == deep


@pytest.mark.parametrize("field", ["logprobs", "prompt_logprobs"])
def test_a_number_of_logprobs_is_no_boolean(field: str) -> None:
    with pytest.raises(InvalidJob, match=rf"{field}: .*must be a number.*\(got True\)"):
        Job.make(model="m", prompt="a", **{field: True})


def test_a_budget_for_reasoning_has_nothing_that_contradicts_it() -> None:
    chat = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_reasoning_tokens": 5}
    for other in ({"allowed_token_ids": [1]}, {"response_format": {"type": "json_object"}}):
        with pytest.raises(
            InvalidJob, match=f"max_reasoning_tokens can't be combined with {next(iter(other))}"
        ):
            Job.make(**chat, **other)
