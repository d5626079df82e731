"""What a client keeps when the gateway, or the worker with it, stops or dies in the middle of a stream."""

import json
import signal
import threading
from collections.abc import Iterator

import httpx
import pytest

from headrace.schemas.events import JobState

from ...support.gateways import gateway
from ...support.processes import kill_engine_of
from ...support.waiting import wait_until
from .test_chat import CHAT, content, events_of
from .test_process import gateway_process, url_of

pytestmark = [pytest.mark.serial, pytest.mark.xdist_group("gateway"), pytest.mark.usefixtures("worker")]

ASKED = CHAT | {"max_tokens": 1000, "ignore_eos": True, "stream": True, "store": True}

Event = tuple[str | None, str]


def read(lines: Iterator[str], events: int) -> list[Event]:
    """The next events of a stream."""
    found: list[Event] = []
    event_id = None
    for line in lines:
        if line.startswith("id: "):
            event_id = line[4:]
        if line.startswith("data: "):
            found.append((event_id, line[6:]))
        if len(found) == events:
            break
    return found


def chat_of(events: list[Event]) -> str:
    return json.loads(events[0][1])["id"]


@pytest.fixture(scope="module")
def uninterrupted(shared_gateway, worker) -> str:
    """The text when nothing happens."""
    with httpx.stream("POST", f"{shared_gateway.base_url}/chat/completions", json=ASKED, timeout=90) as whole:
        return content(events_of(whole))


def test_a_stream_whose_gateway_and_worker_are_killed_goes_on_at_another_byte_for_byte(
    stack_redis, http, jobs, tmp_path, uninterrupted, slow_steps
):
    dying = gateway_process(tmp_path, stack_redis.url, "--no-auth", ends_well=False)
    with dying as process, httpx.Client() as other, slow_steps():
        url = url_of(process)
        with other.stream("POST", f"{url}/v1/chat/completions", json=ASKED, timeout=90) as response:
            lines = response.iter_lines()
            seen = read(lines, 4)
            job = jobs.job(chat_of(seen).removeprefix("chatcmpl-"))
            kill_engine_of(job, jobs)
            process.stop(signal.SIGKILL)
            with pytest.raises(httpx.RemoteProtocolError):
                seen += read(lines, 10**6)
    assert job.status().state is not JobState.SUCCEEDED
    again = f"/v1/chat/completions/{chat_of(seen)}?stream=true"
    with http.stream("GET", again, headers={"last-event-id": seen[-1][0]}) as response:
        rest = events_of(response)
    assert rest[-1][1] == "[DONE]"
    assert content(seen + rest) == uninterrupted
    wait_until(jobs.workers)


def test_a_gateway_that_stops_ends_its_streams_with_a_comment_and_they_go_on_elsewhere(
    stack_redis, http, jobs, uninterrupted, slow_steps
):
    with (
        slow_steps(),
        gateway(stack_redis.url, gateway_finish_s=0) as stopping,
        httpx.stream("POST", f"{stopping.base_url}/chat/completions", json=ASKED, timeout=90) as response,
    ):
        lines = response.iter_lines()
        seen = read(lines, 2)
        stopping.server.should_exit = True
        left = list(lines)
    assert ": the gateway is stopping; continue with Last-Event-ID" in left
    told = read(iter(left), 10**6)
    *more, (_, error) = told
    assert json.loads(error)["error"]["code"] == "gateway_stopping"
    seen += more
    again = f"/v1/chat/completions/{chat_of(seen)}?stream=true"
    with http.stream("GET", again, headers={"last-event-id": seen[-1][0]}) as response:
        assert content(seen + events_of(response)) == uninterrupted


def test_a_gateway_that_stops_lets_answers_end(stack_redis, jobs, slow_steps):
    asked = CHAT | {"max_tokens": 600, "ignore_eos": True}
    answers: list[httpx.Response] = []
    with gateway(stack_redis.url, gateway_finish_s=60) as stopping:
        url = f"{stopping.base_url}/chat/completions"
        waiting = threading.Thread(target=lambda: answers.append(httpx.post(url, json=asked, timeout=90)))
        with slow_steps():
            waiting.start()
            wait_until(lambda: any(queue.running for queue in jobs.queues()))
            stopping.server.should_exit = True
        waiting.join(90)
    (answer,) = answers
    assert answer.json()["usage"]["completion_tokens"] == 600


def test_without_redis_a_request_is_refused_and_told_when_to_come_back(own_redis):
    with gateway(own_redis.url, gateway_auth=True) as lonely:
        own_redis.stop()
        refused = httpx.post(
            f"{lonely.base_url}/chat/completions", json=CHAT, headers={"x-api-key": "hr_x"}, timeout=90
        )
        assert refused.status_code == 503
        assert int(refused.headers["retry-after"]) >= 1
        assert "redis" not in refused.text.lower()
