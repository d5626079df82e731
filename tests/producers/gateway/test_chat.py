"""Chat completions and completions, asked for with OpenAI's own client, which checks every answer's type."""

import json

import httpx
import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from headrace.schemas.choices import seed_of_choice

from ...support.gateways import gateway
from ...support.waiting import wait_until

pytestmark = [pytest.mark.serial, pytest.mark.xdist_group("gateway"), pytest.mark.usefixtures("worker")]

CHAT = {"model": "demo", "messages": [{"role": "user", "content": "What does str.split do?"}], "seed": 1}
LONG = {"ignore_eos": True}


@pytest.fixture
def client(shared_gateway):
    """OpenAI's client, which trusts no answer."""
    with OpenAI(
        base_url=shared_gateway.base_url, api_key="-", max_retries=0, _strict_response_validation=True
    ) as client:
        yield client


@pytest.fixture
async def async_client(shared_gateway):
    """The same for asyncio."""
    async with AsyncOpenAI(
        base_url=shared_gateway.base_url, api_key="-", max_retries=0, _strict_response_validation=True
    ) as client:
        yield client


def lenient(client):
    """For streamed completions, whose `finish_reason` of null OpenAI's own API sends too, and no type has."""
    kind, options = type(client), {"api_key": "-", "max_retries": 0}
    return kind(base_url=client.base_url, http_client=client._client, **options)


def text_of(chunks) -> str:
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


def events_of(response: httpx.Response) -> list[tuple[str | None, str]]:
    """A stream's events: id and data."""
    found: list[tuple[str | None, str]] = []
    event_id, data = None, None
    for line in response.iter_lines():
        name, _, value = line.partition(": ")
        if name == "id":
            event_id = value
        elif name == "data":
            data = value
        elif not line and data is not None:
            found.append((event_id, data))
            event_id, data = None, None
    return found


def content(events) -> str:
    objects = [json.loads(data) for _, data in events if data != "[DONE]"]
    return "".join(o["choices"][0]["delta"].get("content", "") for o in objects if o["choices"])


def test_an_answer_is_the_same_whole_streamed_and_read_again(client, http):
    whole = client.chat.completions.create(**CHAT, max_tokens=24, extra_body=LONG)
    (choice,) = whole.choices
    assert choice.message.role == "assistant"
    assert choice.finish_reason == "length"
    assert whole.usage.completion_tokens == 24
    with client.chat.completions.create(
        **CHAT, max_tokens=24, stream=True, stream_options={"include_usage": True}, extra_body=LONG
    ) as stream:
        chunks = list(stream)
    assert text_of(chunks) == choice.message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "length"
    assert chunks[-1].usage.total_tokens == whole.usage.total_tokens
    assert len({(chunk.id, chunk.created) for chunk in chunks}) == 1
    again = client.chat.completions.retrieve(whole.id)
    assert again.model_dump() == whole.model_dump()
    assert http.get(f"/v1/chat/completions/{chunks[0].id}").json()["created"] == chunks[0].created


async def test_the_asyncio_client_gets_whole_and_streamed_answers(async_client):
    whole = await async_client.chat.completions.create(
        **CHAT, max_completion_tokens=8, logprobs=True, extra_body=LONG
    )
    assert len(whole.choices[0].logprobs.content) == 8
    stream = await async_client.chat.completions.create(
        **CHAT, max_completion_tokens=8, stream=True, extra_body=LONG
    )
    chunks = [chunk async for chunk in stream]
    assert text_of(chunks) == whole.choices[0].message.content
    done = await async_client.completions.create(
        model="demo", prompt="A dictionary is", seed=1, extra_body=LONG
    )
    assert done.usage.completion_tokens == 16
    parts = await lenient(async_client).completions.create(
        model="demo", prompt="A dictionary is", seed=1, stream=True, extra_body=LONG
    )
    assert "".join([part.choices[0].text async for part in parts]) == done.choices[0].text


def test_completions_take_text_tokens_and_several_prompts(client):
    asked = {"model": "demo", "max_tokens": 6, "seed": 3, "extra_body": LONG}
    prompts = ["A list is", "To open a file,"]
    both = client.completions.create(**asked, prompt=prompts)
    assert [choice.index for choice in both.choices] == [0, 1]
    alone = [client.completions.create(**asked, prompt=prompt) for prompt in prompts]
    assert [choice.text for choice in both.choices] == [each.choices[0].text for each in alone]
    assert both.usage.completion_tokens == 12
    assert client.completions.create(**asked, prompt=[1, 2, 3]).choices[0].text
    texts = ["", ""]
    asked |= {"stream": True, "stream_options": {"include_usage": True}}
    *parts, last = lenient(client).completions.create(**asked, prompt=prompts)
    for part in parts:
        texts[part.choices[0].index] += part.choices[0].text
    assert last.usage.completion_tokens == 12
    assert texts == [choice.text for choice in both.choices]


def test_an_unbounded_chat_ends_with_its_context(client):
    most = {"role": "user", "content": "What is a list? " * 240}
    ended = client.chat.completions.create(**{**CHAT, "messages": [most]}, extra_body=LONG)
    assert ended.choices[0].finish_reason == "length"
    assert ended.usage.completion_tokens > 256


def test_a_setting_bounds_chats_that_name_no_length(stack_redis):
    with (
        gateway(stack_redis.url, default_max_tokens=7) as bounded,
        openai.OpenAI(base_url=bounded.base_url, api_key="-") as client,
    ):
        told = [
            client.chat.completions.create(**CHAT, **more, extra_body=LONG)
            for more in ({}, {"max_tokens": 9})
        ]
    assert [(each.choices[0].finish_reason, each.usage.completion_tokens) for each in told] == [
        ("length", 7),
        ("length", 9),
    ]


@pytest.mark.parametrize(
    ("wrong", "kind", "param"),
    [
        ({"model": "none-such"}, openai.NotFoundError, "model"),
        ({"messages": []}, openai.BadRequestError, "messages"),
        ({"temperature": 101}, openai.BadRequestError, "temperature"),
        ({"no_such_field": 1}, openai.BadRequestError, "no_such_field"),
        ({"n": 9}, openai.BadRequestError, "n"),
        ({"n": 2, "best_of": 2}, openai.BadRequestError, "best_of"),
        ({"messages": [{"role": "user", "content": "x " * 9000}]}, openai.BadRequestError, "messages"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_is_wrong_is_the_clients_own_exception_with_its_field(client, wrong, kind, param, stream):
    asked = {name: value for name, value in {**CHAT, **wrong}.items() if name in {"model", "messages"}}
    extra = {name: value for name, value in wrong.items() if name not in asked}
    with pytest.raises(kind) as raised:
        client.chat.completions.create(**asked, stream=stream, extra_body=extra)
    assert raised.value.param == param
    assert raised.value.request_id


def test_options_of_a_stream_are_refused_without_one(client):
    with pytest.raises(openai.BadRequestError) as raised:
        client.chat.completions.create(**CHAT, extra_body={"stream_options": {"include_usage": True}})
    assert raised.value.param == "stream_options"


def test_three_choices_are_the_same_whole_streamed_and_as_jobs_of_their_own(client):
    asked = CHAT | {"max_tokens": 12, "temperature": 1.0, "n": 3}
    whole = client.chat.completions.create(**asked, logprobs=True)
    assert [choice.index for choice in whole.choices] == [0, 1, 2]
    texts = [choice.message.content for choice in whole.choices]
    assert len(set(texts)) == 3
    one = asked | {"n": 1}
    singles = [
        client.chat.completions.create(**one | {"seed": seed_of_choice(1, number)}) for number in range(3)
    ]
    assert [single.choices[0].message.content for single in singles] == texts
    assert whole.usage.prompt_tokens == singles[0].usage.prompt_tokens
    assert whole.usage.completion_tokens == sum(single.usage.completion_tokens for single in singles)
    *chunks, last = client.chat.completions.create(
        **asked, stream=True, stream_options={"include_usage": True}
    )
    assert last.usage.completion_tokens == whole.usage.completion_tokens
    spoken, ended = ["", "", ""], {}
    for chunk in chunks:
        (choice,) = chunk.choices
        assert choice.index not in ended
        spoken[choice.index] += choice.delta.content or ""
        if choice.finish_reason:
            ended[choice.index] = choice.finish_reason
    assert spoken == texts
    assert ended == {choice.index: choice.finish_reason for choice in whole.choices}


def test_two_choices_to_each_of_two_prompts_are_in_the_prompts_order(client):
    asked = {"model": "demo", "prompt": ["A dict is", "A list is"], "max_tokens": 6, "seed": 1, "n": 2}
    whole = client.completions.create(**asked)
    assert [choice.index for choice in whole.choices] == [0, 1, 2, 3]
    singles = [
        client.completions.create(
            **asked | {"prompt": prompt, "n": 1, "seed": seed_of_choice(1, number)}
        ).choices[0]
        for prompt in asked["prompt"]
        for number in range(2)
    ]
    assert [choice.text for choice in whole.choices] == [single.text for single in singles]
    texts = [""] * 4
    for chunk in lenient(client).completions.create(**asked, stream=True):
        texts[chunk.choices[0].index] += chunk.choices[0].text
    assert texts == [choice.text for choice in whole.choices]


@pytest.mark.parametrize("n", [1, 3])
def test_a_stream_goes_on_byte_for_byte_after_any_event(http, n):
    asked = (
        CHAT
        | LONG
        | {"max_tokens": 40 // n, "n": n, "stream": True, "stream_options": {"include_usage": True}}
    )
    with http.stream("POST", "/v1/chat/completions", json=asked) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        whole = events_of(response)
    assert whole[-1] == (None, "[DONE]")
    url = f"/v1/chat/completions/{json.loads(whole[0][1])['id']}?stream=true&include_usage=true"
    for seen, (event_id, _) in enumerate(whole[:-1], 1):
        if event_id is None:  # of several events at a place, the last one names it
            continue
        with http.stream("GET", url, headers={"last-event-id": event_id}) as response:
            assert events_of(response) == whole[seen:], event_id
    with http.stream("GET", url) as response:
        assert events_of(response) == whole
    for wrong in ("x", "-1", "1-", "9" * 30):
        refused = http.get(url, headers={"last-event-id": wrong})
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, "invalid_last_event_id")


def test_a_request_sent_again_with_its_idempotency_key_goes_on_with_the_first_ones_stream(http):
    asked, key = CHAT | {"max_tokens": 32, "stream": True, "ignore_eos": True}, {"idempotency-key": "chat-1"}
    seen: list[tuple[str | None, str]] = []
    with http.stream("POST", "/v1/chat/completions", json=asked, headers=key) as response:
        for line in response.iter_lines():
            if line.startswith("id: "):
                event_id = line[4:]
            if line.startswith("data: "):
                seen.append((event_id, line[6:]))
            if len(seen) == 3:
                break
    again = key | {"last-event-id": seen[-1][0]}
    with http.stream("POST", "/v1/chat/completions", json=asked, headers=again) as response:
        rest = events_of(response)
    whole = http.post("/v1/chat/completions", json=asked, headers=key)
    assert content(seen + rest) == content(events_of(whole))
    other = http.post("/v1/chat/completions", json=asked | {"seed": 2}, headers=key)
    assert (other.status_code, other.json()["error"]["code"]) == (409, "idempotency_conflict")


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("store", [True, False])
def test_a_client_that_goes_away_cancels_its_job_unless_it_is_stored(http, jobs, stream, store):
    mark = f"left {stream} {store}"
    asked = CHAT | {"max_tokens": 400, "stream": stream, "store": store, "ignore_eos": True}
    asked["metadata"] = {"test": mark}
    known = job_ids(jobs)
    with httpx.Client(base_url=http.base_url, timeout=90) as leaving:
        if stream:
            with leaving.stream("POST", "/v1/chat/completions", json=asked) as response:
                next(response.iter_lines())
        else:
            with pytest.raises(httpx.ReadTimeout):
                leaving.post("/v1/chat/completions", json=asked, timeout=httpx.Timeout(90, read=0.2))
    (job_id,) = job_ids(jobs) - known
    job = jobs.job(job_id)
    wait_until(lambda: job.status().state.terminal)
    assert job.status().metadata["test"] == mark
    assert job.status().state == ("succeeded" if store else "cancelled")


def job_ids(jobs) -> set[str]:
    """Every job that the shared Redis knows."""
    from headrace.schemas.redis.connection import connect

    with connect(jobs._url) as redis:
        return {key.decode().rpartition(":job:")[2] for key in redis.scan_iter("hr:{demo:0}:job:*")}


def test_the_service_tier_is_the_jobs_class(client, jobs):
    for tier, job_class in (("flex", "batch"), ("priority", "interactive"), ("auto", "standard")):
        made = client.chat.completions.create(**CHAT, max_tokens=1, service_tier=tier)
        assert jobs.job(made.id.removeprefix("chatcmpl-")).status().job_class == job_class


def test_a_silent_stream_carries_comments(stack_redis):
    from ...support.gateways import gateway

    with gateway(stack_redis.url, gateway_ping_s=0.05) as pinging, httpx.Client(timeout=90) as http:
        asked = {"prompt": "x", "model": "demo", "delay_s": 3600}
        job_id = http.post(f"{pinging.base_url}/jobs", json=asked).json()["id"]
        url = f"{pinging.base_url}/chat/completions/chatcmpl-{job_id}?stream=true"
        with http.stream("GET", url) as response:
            lines = (line for line in response.iter_lines() if line)
            assert [next(lines) for _ in range(3)] == [": still here"] * 3
        pinging.run(pinging.state.client.job(job_id).cancel())


def test_an_answer_that_takes_too_long_is_given_up_with_its_job(stack_redis, jobs):
    from ...support.gateways import gateway

    with gateway(stack_redis.url, gateway_wait_s=0.05) as impatient:
        asked = CHAT | {"delay_s": 3600, "metadata": {"made by": "an impatient client"}}
        refused = httpx.post(f"{impatient.base_url}/chat/completions", json=asked, timeout=90)
    assert (refused.status_code, refused.json()["error"]["code"]) == (504, "result_timeout")
    (job,) = [each for each in jobs.admin.jobs("demo", limit=5).jobs if each.metadata == asked["metadata"]]
    assert job.state == "cancelled"
