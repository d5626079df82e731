"""Jobs read by the Durable Streams protocol: from any offset, at once, by long polls, as events."""

import json
from collections.abc import Iterator
from itertools import pairwise

import httpx
import pytest

from headrace import AsyncClient, StreamReset
from headrace.producers import reading
from headrace.producers.gateway import durable
from headrace.producers.progress import JobProgress
from headrace.schemas import keys
from headrace.schemas.redis.connection import connect

from ...support.gateways import gateway
from ...support.waiting import WAIT_S
from ..conftest import MODEL
from .test_jobs import ASKED
from .test_requests import error_of

pytestmark = [pytest.mark.serial, pytest.mark.xdist_group("gateway"), pytest.mark.usefixtures("worker")]

NEXT, CLOSED, UP_TO_DATE = "stream-next-offset", "stream-closed", "stream-up-to-date"


def enqueued(http: httpx.Client, **changes: object) -> str:
    """The URL of a new job."""
    return http.post("/v1/jobs", json=ASKED | changes).headers["location"]


def controls(lines: Iterator[str]) -> Iterator[tuple[str, dict]]:
    """The data of each `data` event, which may be empty, and what its `control` event says."""
    data, name = [], ""
    for line in lines:
        if line.startswith("event: "):
            name = line[7:]
        elif line.startswith("data:") and name == "data":
            data.append(line[5:].removeprefix(" "))
        elif line.startswith("data:"):
            yield "\n".join(data), json.loads(line[5:])
            data = []


def polled(http: httpx.Client, url: str, offset: str = "-1") -> Iterator[httpx.Response]:
    """The responses to long polls until the stream is closed."""
    cursor = ""
    while True:
        params = {"offset": offset, "live": "long-poll", "cursor": cursor}
        answer = http.get(url, params=params)
        assert answer.status_code in (200, 204), answer.text
        yield answer
        if answer.headers.get(CLOSED) == "true":
            return
        assert int(answer.headers["stream-cursor"]) > int(cursor or -1)
        offset, cursor = answer.headers[NEXT], answer.headers["stream-cursor"]


def test_every_way_of_reading_a_running_job_gives_its_token_log_from_any_offset(http, jobs, slow_steps):
    with slow_steps():
        url = enqueued(http, max_tokens=60)
        with http.stream("GET", f"{url}/text", params={"offset": "-1", "live": "sse"}) as response:
            assert response.headers["content-type"] == "text/event-stream"
            parts = list(controls(response.iter_lines()))
        again = enqueued(http, max_tokens=60)
        polls = list(polled(http, f"{again}/chunks"))
    result = jobs.job(url.rpartition("/")[2]).result(WAIT_S)
    assert "".join(data for data, _ in parts) == result.text
    offsets = [control["streamNextOffset"] for _, control in parts]
    assert all(before < after for before, after in pairwise(offsets[:-1]))  # the last may add no text
    assert [control.get("streamClosed", False) for _, control in parts] == [*[False] * (len(parts) - 1), True]
    assert len(parts) > 1
    for seen, offset in enumerate(offsets, 1):
        rest = http.get(f"{url}/text", params={"offset": offset})
        assert rest.text == "".join(data for data, _ in parts[seen:])
        assert (rest.headers[CLOSED], rest.headers[UP_TO_DATE]) == ("true", "true")
        assert rest.headers[NEXT] == offsets[-1]
    messages = [message for poll in polls if poll.status_code == 200 for message in poll.json()]
    assert len(polls) > 1
    assert "".join(message["text"] for message in messages[:-1]) == result.text
    assert [token for message in messages[:-1] for token in message["token_ids"]] == list(result.token_ids)
    assert (messages[-1]["type"], messages[-1]["state"]) == ("end", "succeeded")
    assert http.get(f"{again}/chunks").json() == messages


def test_the_tail_of_a_stream_and_whether_it_is_closed_are_known_without_reading_it(http):
    url = enqueued(http, delay_s=3600)
    start = http.head(f"{url}/chunks")
    assert (start.status_code, start.headers["content-type"], start.text) == (200, "application/json", "")
    assert start.headers["cache-control"] == "no-store"
    assert CLOSED not in start.headers
    now = http.get(f"{url}/chunks", params={"offset": "now"})
    assert (now.json(), now.headers[NEXT]) == ([], start.headers[NEXT])
    assert now.headers["cache-control"] == "no-store"
    assert "etag" not in now.headers
    http.post(f"{url}/cancel")
    end = http.head(f"{url}/chunks")
    assert (end.headers[CLOSED], end.headers[NEXT] > start.headers[NEXT]) == ("true", True)
    for live, status in ((None, 200), ("long-poll", 204), ("sse", 200)):
        params = {"offset": "now"} | ({"live": live} if live else {})
        with http.stream("GET", f"{url}/chunks", params=params) as answer:
            assert answer.status_code == status
            lines = list(answer.iter_lines())
        if live == "sse":
            ((data, control),) = controls(iter(lines))
            assert not data
            assert (control["streamNextOffset"], control["streamClosed"]) == (end.headers[NEXT], True)
        else:
            assert (answer.headers[NEXT], answer.headers[CLOSED]) == (end.headers[NEXT], "true")


def test_what_a_client_has_is_not_sent_again_until_the_stream_goes_on_or_closes(http):
    url = enqueued(http, delay_s=3600)
    empty = http.get(f"{url}/text")
    assert (empty.text, empty.headers[UP_TO_DATE]) == ("", "true")
    assert empty.headers["cache-control"] == "private, no-cache"
    known = {"if-none-match": f'"other", W/{empty.headers["etag"]}'}
    same = http.get(f"{url}/text", headers=known)
    assert (same.status_code, same.content, same.headers["etag"]) == (304, b"", empty.headers["etag"])
    http.post(f"{url}/cancel")
    closed = http.get(f"{url}/text", headers=known)
    assert (closed.status_code, closed.text, closed.headers[CLOSED]) == (200, "", "true")
    assert closed.headers[NEXT] == empty.headers[NEXT]  # a cancelled job adds no text
    assert closed.headers["cache-control"] == "private, no-cache"  # a job that is started over begins again
    fixed = http.get(f"{url}/text", params={"offset": empty.headers[NEXT]})
    assert fixed.headers["cache-control"].startswith("private, max-age=60")


def test_the_last_message_says_how_a_job_ended_that_did_not_succeed(http):
    url = enqueued(http, delay_s=3600)
    with http.stream("GET", f"{url}/chunks", params={"offset": "-1", "live": "sse"}) as response:
        parts = controls(response.iter_lines())
        assert next(parts)[1]["upToDate"] is True
        http.post(f"{url}/cancel")
        ((data, control),) = parts
    (end,) = json.loads(data)
    assert (end["type"], end["state"], end["error"]["code"]) == ("end", "cancelled", "job_cancelled")
    assert control["streamClosed"] is True
    assert "streamCursor" not in control


def test_a_long_stream_is_read_in_parts(http, monkeypatch):
    url = enqueued(http)
    whole = [message for poll in polled(http, f"{url}/chunks") for message in poll.json()]
    monkeypatch.setattr(durable, "READ_BYTES", 1)
    read, offset = [], "-1"
    while True:
        part = http.get(f"{url}/chunks", params={"offset": offset})
        read += part.json()
        offset = part.headers[NEXT]
        if part.headers.get(CLOSED):
            break
        assert UP_TO_DATE not in part.headers
    assert read == whole
    with http.stream("GET", f"{url}/chunks", params={"offset": "-1", "live": "sse"}) as response:
        *parts, (_, last) = controls(response.iter_lines())
    assert not any("upToDate" in control for _, control in parts)
    assert last["streamClosed"] is True


def test_a_reader_that_leaves_leaves_the_job_alone(http, jobs):
    url = enqueued(http, max_tokens=200)
    with http.stream("GET", f"{url}/text", params={"offset": "-1", "live": "sse"}) as response:
        next(response.iter_lines())
    assert jobs.job(url.rpartition("/")[2]).result(WAIT_S).usage.completion_tokens == 200


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("offset=", "offset"),
        ("offset=17", "offset"),
        ("offset=0000_0000000001,0", "offset"),
        ("offset=-1&offset=-1", "offset"),
        ("live=sse", "offset"),
        ("offset=-1&live=always", "live"),
    ],
)
def test_a_wrong_query_is_refused_by_name(http, query, param):
    url = enqueued(http, max_tokens=1)
    assert error_of(http.get(f"{url}/chunks?{query}"), 400)["param"] == param


def test_an_offset_of_a_job_that_was_started_over_is_gone(http, stack_redis, jobs):
    from redis import Redis

    url = enqueued(http, delay_s=3600)
    offset = http.head(f"{url}/text").headers[NEXT]
    with Redis.from_url(stack_redis.url) as redis:
        (record,) = redis.keys(f"*{url.rpartition('/')[2]}")
        redis.hset(record, "restarts", 1)
    for live in ({}, {"live": "long-poll"}, {"live": "sse"}):
        gone = http.get(f"{url}/text", params={"offset": offset} | live)
        assert error_of(gone, 410)["code"] == "stream_reset"
    assert http.get(f"{url}/text").headers[NEXT] > offset
    http.post(f"{url}/cancel")


def test_an_offset_beyond_a_log_that_lost_its_end_is_refused_only_until_it_is_there_again(http, scripted):
    """As a client finds it when Redis was killed and lost the tokens that the client has."""
    url = enqueued(http, model=MODEL, prompt=None, prompt_token_ids=[1], ignore_eos=False)
    running = scripted.start()
    running.write(2)
    had = "0000_0000000005"
    for live in ({}, {"live": "long-poll"}, {"live": "sse"}):
        behind = http.get(f"{url}/text", params={"offset": had} | live)
        assert error_of(behind, 503)["code"] == "stream_behind"
        assert behind.headers["retry-after"] == "1"
    running.write(4)
    assert http.get(f"{url}/text", params={"offset": had}).text == "1005 "
    running.finish()
    assert http.get(f"{url}/text", params={"offset": had}).headers[CLOSED] == "true"
    never = http.get(f"{url}/text", params={"offset": "0000_0000000007"})
    assert error_of(never, 410)["code"] == "stream_reset"


async def test_a_job_that_is_started_over_just_before_its_log_is_read_gives_no_offsets_of_before(
    http, stack_redis, scripted
):
    url = enqueued(http, model=MODEL, prompt=None, prompt_token_ids=[1], ignore_eos=False)
    job_id = url.rpartition("/")[2]
    running = scripted.start()
    running.write(2)
    before = JobProgress("default", ended=False, offset=2, restarts=0)
    async with AsyncClient(stack_redis.url) as client:
        stream = durable.TokenStream(client.job(job_id), durable.Text())
        assert (await stream.read(durable.Offset(0, 0), before)).pieces == ("1000 1001 ",)
        scripted.redis.hset(scripted.tag.job(job_id), "restarts", 1)
        with pytest.raises(StreamReset):
            await stream.read(durable.Offset(0, 0), before)
    running.finish()


def test_a_read_takes_nothing_of_the_record_but_how_far_the_job_has_come(http, stack_redis):
    url = enqueued(http, delay_s=3600)
    job_id = url.rpartition("/")[2]
    record = keys.tag_of(job_id).job(job_id)
    with connect(stack_redis.url) as redis:
        spec = redis.hget(record, "spec")
        redis.hset(record, "spec", "can't be read")
        try:
            assert http.get(f"{url}/chunks").json() == []
            assert http.head(f"{url}/chunks").status_code == 200
        finally:
            redis.hset(record, "spec", spec)
    http.post(f"{url}/cancel")


def test_a_stopping_gateway_sends_readers_elsewhere_and_the_job_goes_on(stack_redis, http, jobs, slow_steps):
    with slow_steps(), gateway(stack_redis.url, gateway_finish_s=0) as stopping:
        url = enqueued(http, max_tokens=200)
        live = {"offset": "-1", "live": "sse"}
        with httpx.stream("GET", f"{stopping.url}{url}/text", params=live, timeout=90) as response:
            parts = controls(lines := response.iter_lines())
            seen = [next(parts) for _ in range(3)]
            stopping.server.should_exit = True
            seen += parts
        assert not list(lines)
    assert "streamClosed" not in seen[-1][1]
    text = "".join(data for data, _ in seen)
    for poll in polled(http, f"{url}/text", seen[-1][1]["streamNextOffset"]):
        text += poll.text
    assert text == jobs.job(url.rpartition("/")[2]).result(WAIT_S).text


def test_a_long_poll_ends_empty_in_time_and_at_once_when_the_gateway_stops(stack_redis, http, monkeypatch):
    monkeypatch.delattr(reading, "explain")  # nobody reads there why a job waits
    url = enqueued(http, delay_s=3600)
    live = {"offset": "now", "live": "long-poll"}
    with gateway(stack_redis.url, gateway_finish_s=0, gateway_ping_s=0.2) as quick:
        empty = httpx.get(f"{quick.url}{url}/chunks", params=live, timeout=90)
    assert (empty.status_code, empty.headers[UP_TO_DATE]) == (204, "true")
    with gateway(stack_redis.url, gateway_finish_s=0, gateway_ping_s=3600) as stopping:
        stopping.loop.call_soon_threadsafe(stopping.state.cut)
        refused = httpx.get(f"{stopping.url}{url}/chunks", params=live, timeout=90)
    assert error_of(refused, 503)["code"] == "gateway_stopping"
    http.post(f"{url}/cancel")
