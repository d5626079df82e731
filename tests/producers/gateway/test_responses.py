"""Responses, asked for with OpenAI's own client, which checks every answer's type."""

import json
from contextlib import ExitStack

import httpx
import openai
import pytest
from openai import OpenAI

from headrace.schemas.keys import tag_of
from headrace.schemas.redis.connection import connect

from ...support.gateways import gateway
from ...support.processes import kill_engine_of
from ...support.waiting import wait_until

pytestmark = [pytest.mark.serial, pytest.mark.xdist_group("gateway"), pytest.mark.usefixtures("worker")]

ASKED = {"model": "demo", "input": "What does str.split do?", "extra_body": {"seed": 1, "ignore_eos": True}}
BODY = {"model": "demo", "input": "What does str.split do?", "seed": 1, "ignore_eos": True, "stream": True}


@pytest.fixture
def client(shared_gateway):
    """OpenAI's client, which trusts no answer."""
    with OpenAI(
        base_url=shared_gateway.base_url, api_key="-", max_retries=0, _strict_response_validation=True
    ) as client:
        yield client


def ended(client: OpenAI, response_id: str):
    found = []

    def has_ended() -> bool:
        found[:] = [client.responses.retrieve(response_id)]
        return found[0].status not in ("queued", "in_progress")

    wait_until(has_ended)
    return found[0]


def sent(response: httpx.Response) -> list[str]:
    return [line for line in response.iter_lines() if line.startswith(("data: ", "event: ", "id: "))]


def test_a_response_is_the_same_whole_streamed_and_read_again(client):
    whole = client.responses.create(**ASKED, max_output_tokens=24, metadata={"a": "b"})
    assert (whole.status, whole.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert (whole.usage.output_tokens, whole.metadata) == (24, {"a": "b"})
    assert client.responses.retrieve(whole.id) == whole
    events = list(client.responses.create(**ASKED, max_output_tokens=24, stream=True))
    assert "".join(e.delta for e in events if e.type == "response.output_text.delta") == whole.output_text
    assert events[-1].response.output_text == whole.output_text
    response_id = events[0].response.id
    assert client.responses.retrieve(response_id) == events[-1].response
    for seen, event in enumerate(events):
        after = client.responses.retrieve(response_id, stream=True, starting_after=event.sequence_number)
        assert list(after) == events[seen + 1 :]
    with client.responses.stream(**ASKED, max_output_tokens=24) as stream:
        deltas = [event.delta for event in stream if event.type == "response.output_text.delta"]
    assert "".join(deltas) == whole.output_text


def test_a_response_in_the_background_is_answered_at_once_and_read_later(client):
    begun = client.responses.create(**ASKED, max_output_tokens=24, background=True)
    assert (begun.status, begun.output) in [("queued", []), ("in_progress", [])]
    later = ended(client, begun.id)
    assert (later.background, later.usage.output_tokens) == (True, 24)
    events = list(client.responses.retrieve(begun.id, stream=True))
    assert events[0].response.status == "queued"
    assert events[-1].response == later


def test_a_conversation_goes_on_from_a_stored_response(client):
    first = client.responses.create(**ASKED, max_output_tokens=8, instructions="Be brief.")
    asked = {"model": "demo", "max_output_tokens": 8, "extra_body": {"seed": 2, "ignore_eos": True}}
    second = client.responses.create(**asked, input="And join?", previous_response_id=first.id)
    items = client.responses.input_items.list(second.id, order="asc", limit=2)
    said = [(item.role, item.content[0].text) for item in items]
    assert said == [("user", ASKED["input"]), ("assistant", first.output_text), ("user", "And join?")]
    alone = client.responses.create(
        **asked, input=[{"role": role, "content": text} for role, text in said], store=False
    )
    assert alone.output_text == second.output_text
    assert (second.previous_response_id, second.instructions) == (first.id, None)


def test_a_cancelled_response_ends_its_streams_and_a_deleted_one_is_gone(client, jobs):
    begun = client.responses.create(**ASKED, background=True)
    events = client.responses.retrieve(begun.id, stream=True)
    text = [next(event.delta for event in events if event.type == "response.output_text.delta")]
    cancelled = client.responses.cancel(begun.id)
    rest = list(events)
    text += [event.delta for event in rest if event.type == "response.output_text.delta"]
    assert (rest[-1].type, rest[-1].response.status) == ("response.incomplete", "cancelled")
    assert (cancelled.status, cancelled.output_text) == ("cancelled", "".join(text))
    assert client.responses.cancel(begun.id) == cancelled
    assert jobs.job(begun.id.removeprefix("resp_")).status().state == "cancelled"
    client.responses.delete(begun.id)
    for gone in (client.responses.retrieve, client.responses.cancel, client.responses.delete):
        with pytest.raises(openai.NotFoundError):
            gone(begun.id)


def test_what_is_not_stored_can_neither_be_read_nor_continued(client):
    alone = client.responses.create(**ASKED, max_output_tokens=1, store=False)
    for name in (alone.id, "resp_x", "x"):
        with pytest.raises(openai.NotFoundError):
            client.responses.retrieve(name)
        with pytest.raises(openai.BadRequestError) as refused:
            client.responses.create(**ASKED, previous_response_id=name)
        assert refused.value.param == "previous_response_id"


def test_a_response_that_fails_says_why_in_its_status_and_in_its_own_event(client):
    too_long = {"model": "demo", "input": "x " * 9000}
    with pytest.raises(openai.BadRequestError) as refused:
        client.responses.create(**too_long)
    assert refused.value.code == "context_length_exceeded"
    events = list(client.responses.create(**too_long, stream=True))
    assert [event.type for event in events] == ["response.created", "response.failed"]
    failed = client.responses.retrieve(events[0].response.id)
    assert (failed.status, failed.error.code) == ("failed", "invalid_prompt")
    with pytest.raises(openai.BadRequestError, match="no answer to continue"):
        client.responses.create(**ASKED, previous_response_id=failed.id)


def test_a_stream_goes_on_byte_for_byte_at_another_gateway_after_the_worker_was_killed(
    http, jobs, stack_redis, slow_steps
):
    asked = BODY | {"max_output_tokens": 300}
    with http.stream("POST", "/v1/responses", json=asked) as response:
        whole = sent(response)
    killed, seen = False, []
    with ExitStack() as slow, http.stream("POST", "/v1/responses", json=asked) as response:
        slow.enter_context(slow_steps())
        for line in response.iter_lines():
            if line.startswith("data: "):
                event = json.loads(line[6:])
                seen.append(event)
                if event["type"] == "response.output_text.delta" and not killed:
                    killed = True
                    job = jobs.job(seen[0]["response"]["id"].removeprefix("resp_"))
                    worker, number = kill_engine_of(job, jobs), event["sequence_number"]
                    slow.close()
    assert job.status().worker != worker
    deltas = [event for event in seen if event["type"] == "response.output_text.delta"]
    before = [json.loads(line[6:]) for line in whole if line.startswith("data: ")]
    assert (
        "".join(event["delta"] for event in deltas)
        == before[-1]["response"]["output"][0]["content"][0]["text"]
    )
    numbers = [event["sequence_number"] for event in seen]
    assert numbers == sorted(set(numbers))
    path = f"/responses/{seen[0]['response']['id']}?stream=true"
    after = {"last-event-id": str(number)}
    with (
        gateway(stack_redis.url) as other,
        httpx.stream("GET", other.base_url + path, headers=after, timeout=90) as response,
    ):
        rest = [json.loads(line[6:]) for line in sent(response) if line.startswith("data: ")]
    assert rest == [event for event in seen if event["sequence_number"] > number]


def test_a_response_is_stored_for_as_long_as_the_setting_says(stack_redis):
    with gateway(stack_redis.url, gateway_response_s=60) as short, connect(stack_redis.url) as redis:
        asked = BODY | {"stream": False, "max_output_tokens": 1}
        body = httpx.post(f"{short.base_url}/responses", json=asked, timeout=90)
        job_id = body.json()["id"].removeprefix("resp_")
        assert 50_000 < redis.pttl(tag_of(job_id).response(job_id)) <= 60_000
