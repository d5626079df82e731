"""Native jobs: enqueued, followed, resumed, cancelled."""

import json
from contextlib import aclosing

import pytest

from headrace import AsyncClient
from headrace.producers.gateway.generation import answer_events
from headrace.producers.gateway.native_events import NativeEvents
from headrace.producers.gateway.sse import MOST_AT_ONCE

from ...support.waiting import wait_until
from ..conftest import MODEL, tokens
from .test_chat import events_of
from .test_kills import piece
from .test_requests import error_of

pytestmark = [pytest.mark.serial, pytest.mark.xdist_group("gateway"), pytest.mark.usefixtures("worker")]

ASKED = {"model": "demo", "prompt": "A dictionary is", "seed": 1, "max_tokens": 24, "ignore_eos": True}


def test_a_jobs_stream_is_its_token_log_and_goes_on_after_any_event(http, jobs):
    made = http.post("/v1/jobs", json=ASKED)
    assert made.status_code == 202
    url = made.headers["location"]
    with http.stream("GET", f"{url}/stream") as response:
        events = [(event_id, json.loads(data)) for event_id, data in events_of(response)]
    *chunks, (_, end) = events
    assert [event_id for event_id, _ in events][:-1] == [str(chunk["offset"]) for _, chunk in chunks]
    result = jobs.job(made.json()["id"]).result()
    assert [token for _, chunk in chunks for token in chunk["token_ids"]] == list(result.token_ids)
    assert "".join(chunk["text"] for _, chunk in chunks) == result.text
    assert (end["type"], end["state"], end["usage"]["completion_tokens"]) == ("end", "succeeded", 24)
    for seen, (event_id, _) in enumerate(events, 1):
        with http.stream("GET", f"{url}/stream", headers={"last-event-id": event_id}) as response:
            assert [json.loads(data) for _, data in events_of(response)] == [e for _, e in events[seen:]]
    status = http.get(url).json()
    assert (status["state"], status["result"]["text"]) == ("succeeded", result.text)


@pytest.mark.parametrize(
    ("headers", "field"),
    [({"idempotency-key": "k1"}, {}), ({}, {"idempotency_key": "k2"})],
    ids=["header", "field"],
)
def test_a_job_that_is_sent_again_under_its_key_is_the_same_job(http, headers, field):
    asked = ASKED | {"max_tokens": 1} | field
    first, again = (http.post("/v1/jobs", json=asked, headers=headers).json() for _ in range(2))
    assert first["id"] == again["id"]


def test_a_job_is_cancelled_and_its_stream_says_so(http):
    made = http.post("/v1/jobs", json=ASKED | {"delay_s": 3600}).json()
    assert made["object"] == "job"
    assert http.post(f"/v1/jobs/{made['id']}/cancel").json()["outcome"] == "cancelled"
    assert http.post(f"/v1/jobs/{made['id']}/cancel").json()["outcome"] == "already"
    refused = http.get(f"/v1/jobs/{made['id']}/stream")
    assert error_of(refused, 409)["code"] == "job_cancelled"
    running = http.post("/v1/jobs", json=ASKED | {"max_tokens": 1500}).json()
    with http.stream("GET", f"/v1/jobs/{running['id']}/stream") as response:
        lines = response.iter_lines()
        next(lines)
        http.post(f"/v1/jobs/{running['id']}/cancel")
        data = [line[6:] for line in lines if line.startswith("data: ")]
    assert json.loads(data[-1])["state"] == "cancelled"


def test_a_job_that_ends_after_its_streams_response_began_ends_the_stream(http):
    made = http.post("/v1/jobs", json=ASKED | {"delay_s": 3600}).json()
    native, chat = f"/v1/jobs/{made['id']}/stream", f"/v1/chat/completions/chatcmpl-{made['id']}?stream=true"
    with http.stream("GET", native) as jobs, http.stream("GET", chat) as chats:
        http.post(f"/v1/jobs/{made['id']}/cancel")
        ((event_id, end),) = events_of(jobs)
        (_, error), (_, done) = events_of(chats)
    assert (event_id, json.loads(end)["state"]) == ("0-1", "cancelled")
    assert json.loads(error)["error"]["code"] == "job_cancelled"
    assert done == "[DONE]"


def test_a_reader_that_leaves_leaves_the_job_alone(http, jobs):
    made = http.post("/v1/jobs", json=ASKED | {"max_tokens": 200}).json()
    with http.stream("GET", f"/v1/jobs/{made['id']}/stream") as response:
        next(response.iter_lines())
    assert wait_until(lambda: jobs.job(made["id"]).status().state.terminal)
    assert jobs.job(made["id"]).status().state == "succeeded"


@pytest.mark.parametrize(
    ("wrong", "param"),
    [({"tenant": "other"}, "tenant"), ({"prompt": ""}, "prompt"), ({"nothing": 1}, "nothing")],
    ids=["tenant", "prompt", "nothing"],
)
def test_a_wrong_field_is_named(http, wrong, param):
    assert error_of(http.post("/v1/jobs", json=ASKED | wrong), 400)["param"] == param


def test_a_job_that_never_was_is_not_found(http):
    for path in ("", "/stream"):
        for job_id in ("x", "01m8p7qx153vm4pmnvcn7hrmvg.0.demo", "01m8p7qx153vm4pmnvcn7hrmvg.0.none"):
            assert error_of(http.get(f"/v1/jobs/{job_id}{path}"), 404)["code"] == "not_found"


def test_events_that_are_ready_together_come_in_one_write(http, slow_steps, jobs):
    with slow_steps():  # each token is published by itself
        job = jobs.enqueue(**ASKED)
        log = list(job.stream())
    with http.stream("GET", f"/v1/jobs/{job.id}/stream") as response:
        writes = list(response.iter_raw())  # at least one for each chunk of the response's transfer coding
    assert b"".join(writes).count(b"event: chunk") == len(log) > 4
    assert len(writes) < 4


@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/chat/completions", "/v1/responses"])
def test_a_stream_goes_on_after_any_token_though_they_are_in_other_portions_now(http, scripted, path):
    """As a client finds it whose last tokens Redis has lost: a worker has generated them again."""
    asked = {"model": MODEL, "max_output_tokens": 8, "input": "x", "background": True}
    if path == "/v1/responses":
        answer = http.post(path, json=asked).json()["id"]
    else:
        made = http.post("/v1/jobs", json={"model": MODEL, "prompt_token_ids": [1], "max_tokens": 8}).json()
        answer = {"/v1/jobs": "{}/stream", "/v1/chat/completions": "chatcmpl-{}"}[path].format(made["id"])
    running = scripted.start()
    running.write(3, 5)
    running.finish()
    before = 3 if path == "/v1/responses" else 0
    for seen in range(1, 9):
        headers = {"last-event-id": str(before + seen)}
        with http.stream("GET", f"{path}/{answer}?stream=true", headers=headers) as response:
            rest = [piece(path, data) for _, data in events_of(response)]
        assert "".join(rest) == "".join(f"{token} " for token in tokens(seen, 8))


class CountedEvents(NativeEvents):
    """Counts the chunks that have become events."""

    chunks = 0

    def chunk(self, chunk):
        self.chunks += 1
        return super().chunk(chunk)


async def test_a_replay_encodes_no_more_than_its_reader_takes(stack_redis, scripted):
    async with AsyncClient(stack_redis.url) as client:
        job = await client.enqueue(model=MODEL, prompt_token_ids=[1], max_tokens=200)
        running = scripted.start()
        running.write(*[1] * 200)
        running.finish()
        async with aclosing(answer_events([job], [shape := CountedEvents()], None)) as events:
            await anext(events)
            assert shape.chunks <= MOST_AT_ONCE
            async for _ in events:
                pass
    assert shape.chunks == 200


def test_every_event_of_a_stream_is_counted(http, scripted, shared_gateway):
    events = shared_gateway.state.metrics.events
    made = http.post("/v1/jobs", json={"model": MODEL, "prompt_token_ids": [1], "max_tokens": 8}).json()
    running = scripted.start()
    running.write(3, 5)
    running.finish()
    (before,) = (each.value for each in events.collect()[0].samples if each.name.endswith("_total"))
    with http.stream("GET", f"/v1/jobs/{made['id']}/stream") as response:
        sent = sum(1 for _ in events_of(response))
    (after,) = (each.value for each in events.collect()[0].samples if each.name.endswith("_total"))
    assert after - before == sent == 3
