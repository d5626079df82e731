"""Model aliases: which model answers a request that names one."""

import json
from collections.abc import Callable, Iterator

import httpx
import pytest
from anthropic import Anthropic
from openai import OpenAI

from headrace import Client
from headrace.schemas import keys
from headrace.schemas.keys import tag_of
from headrace.schemas.redis.connection import connect

from ...support.gateways import gateway
from ...support.waiting import wait_until
from .test_requests import error_of

pytestmark = [pytest.mark.serial, pytest.mark.xdist_group("gateway"), pytest.mark.usefixtures("worker")]

HELLO = [{"role": "user", "content": "Hello"}]
ASKED = {"model": "chat", "messages": HELLO, "max_tokens": 2}

SetRoute = Callable[..., None]


@pytest.fixture
def alias(jobs: Client, stack_redis) -> Iterator[SetRoute]:
    """Sets aliases, which are gone at the end, as are the choices kept for requests with a key."""
    made: set[str] = set()

    def set_route(name: str, **weights: int) -> None:
        made.add(name)
        jobs.admin.set_route(name, weights)

    yield set_route
    for name in made & jobs.admin.routes().keys():
        jobs.admin.drop_route(name)
    with connect(stack_redis.url) as redis:
        if kept := list(redis.scan_iter(keys.routed("*"))):
            redis.delete(*kept)


@pytest.fixture
def openai(shared_gateway) -> Iterator[OpenAI]:
    with OpenAI(
        base_url=shared_gateway.base_url, api_key="x", max_retries=0, _strict_response_validation=True
    ) as client:
        yield client


def test_every_api_answers_an_alias_and_names_the_model(openai: OpenAI, http, jobs, alias: SetRoute) -> None:
    alias("chat", demo=1)
    chat = openai.chat.completions.with_raw_response.create(
        model="chat", messages=HELLO, max_tokens=2, store=True
    )
    assert (chat.headers["x-headrace-model"], chat.parse().model) == ("demo", "demo")
    again = http.get(f"/v1/chat/completions/{chat.parse().id}").json()
    assert again == chat.http_response.json()
    chunks = list(openai.chat.completions.create(model="chat", messages=HELLO, max_tokens=2, stream=True))
    assert {chunk.model for chunk in chunks} == {"demo"}
    assert openai.completions.create(model="chat", prompt=["a", "b"], max_tokens=2).model == "demo"
    response = openai.responses.create(model="chat", input="Hello", max_output_tokens=2)
    assert response.model == openai.responses.retrieve(response.id).model == "demo"
    with Anthropic(base_url=str(http.base_url), api_key="x") as anthropic:
        assert anthropic.messages.create(model="chat", messages=HELLO, max_tokens=2).model == "demo"
        assert anthropic.messages.count_tokens(model="chat", messages=HELLO).input_tokens > 0
    native = http.post("/v1/jobs", json={"model": "chat", "prompt": "Hello", "max_tokens": 2})
    assert native.headers["x-headrace-model"] == "demo"
    assert jobs.job(native.json()["id"]).result(60).text


def test_an_answer_may_fill_the_context_of_the_model_behind_the_alias(
    http, jobs, stack_redis, alias: SetRoute, unserved
) -> None:
    alias("chat", away=1)
    asked = {"model": "chat", "input": "Hello", "background": True}
    response = http.post("/v1/responses", json=asked).json()
    job_id = response["id"].removeprefix("resp_")
    with connect(stack_redis.url) as redis:
        spec = json.loads(redis.hget(tag_of(job_id).job(job_id), "spec"))
    jobs.job(job_id).cancel()
    assert (response["model"], spec["model"], spec["max_tokens"]) == ("away", "away", 512)


def models_of(http: httpx.Client, jobs: Client, *asked: dict, **headers: str) -> list[str]:
    """The models that these jobs were given, which are cancelled."""
    found = []
    for fields in asked:
        answer = http.post(
            "/v1/jobs", json={"model": "chat", "prompt": "x", "max_tokens": 1, **fields}, headers=headers
        )
        found.append(answer.headers["x-headrace-model"])
        assert tag_of(answer.json()["id"]).model == found[-1]
        jobs.job(answer.json()["id"]).cancel()
    return found


def test_a_user_keeps_a_model_until_the_operator_switches(http, jobs, alias: SetRoute, unserved) -> None:
    alias("chat", demo=1, away=1)
    users = [{"metadata": {"user": f"user-{number}"}} for number in range(6)]
    first = models_of(http, jobs, *users)
    assert set(first) == {"demo", "away"}
    assert models_of(http, jobs, *users) == first
    at_demo = f"user-{first.index('demo')}"
    for field in ("user", "safety_identifier", "prompt_cache_key"):
        answer = http.post("/v1/chat/completions", json=ASKED | {field: at_demo})
        assert answer.headers["x-headrace-model"] == "demo"
    alias("chat", away=1)
    assert models_of(http, jobs, *users) == ["away"] * 6


def test_a_request_sent_again_finds_its_job_after_the_alias_was_switched(http, alias: SetRoute) -> None:
    alias("chat", demo=1)
    sent = {"json": ASKED, "headers": {"idempotency-key": "sent-again"}}
    first = http.post("/v1/chat/completions", **sent).json()
    alias("chat", nobody=1)
    assert http.post("/v1/chat/completions", **sent).json() == first
    assert error_of(http.post("/v1/chat/completions", json=ASKED), 404)["code"] == "model_not_found"


def test_a_request_sent_again_finds_its_job_after_its_model_became_an_alias(http, alias: SetRoute) -> None:
    asked = {
        "/v1/chat/completions": {"messages": HELLO, "max_tokens": 2},
        "/v1/completions": {"prompt": ["a", "b"], "max_tokens": 2},
        "/v1/jobs": {"prompt": "x", "idempotency_key": "native", "max_tokens": 2},
    }

    def answers() -> list[dict]:
        headers = {"idempotency-key": "before-the-alias"}
        return [
            http.post(path, json={"model": "demo"} | body, headers=headers).json()
            for path, body in asked.items()
        ]

    first = answers()
    alias("demo", nobody=1)
    assert answers() == first


def test_a_refused_request_leaves_its_choice_for_a_minute_only(http, stack_redis, alias: SetRoute) -> None:
    alias("chat", demo=1)
    with connect(stack_redis.url) as redis:
        for wrong, status in ({"temperature": 1000}, 400), ({}, 200):
            headers = {"idempotency-key": "refused-first"}
            answer = http.post("/v1/chat/completions", json=ASKED | wrong, headers=headers)
            assert answer.status_code == status
            (left,) = (redis.ttl(name) for name in redis.scan_iter(keys.routed("*")))
            assert (left > 60) is (status == 200)


def test_a_key_is_checked_for_the_name_that_is_asked_for(stack_redis, jobs, alias: SetRoute) -> None:
    alias("chat", demo=1)
    alias("other", demo=1)
    made = [jobs.admin.create_api_key("shop", models=[model]) for model in ("chat", "demo")]
    with gateway(stack_redis.url, gateway_auth=True) as running:
        for key, mine, others in zip(made, ("chat", "demo"), ("demo", "chat"), strict=True):
            headers = {"authorization": f"Bearer {key.key.get_secret_value()}"}
            with httpx.Client(base_url=running.url, timeout=90, headers=headers) as http:
                assert [each["id"] for each in http.get("/v1/models").json()["data"]] == [mine]
                assert http.get(f"/v1/models/{mine}").json()["max_model_len"] > 0
                assert error_of(http.get(f"/v1/models/{others}"), 404)["code"] == "model_not_found"
                answer = http.post("/v1/chat/completions", json=ASKED | {"model": mine})
                assert answer.json()["model"] == "demo"
                for path in ("/v1/chat/completions", "/v1/jobs"):
                    refused = http.post(path, json=ASKED | {"model": others})
                    assert error_of(refused, 404)["code"] == "model_not_found"
                    assert "x-headrace-model" not in refused.headers
    for key in made:
        jobs.admin.revoke_api_key(key.id)


def test_without_a_user_the_key_decides(stack_redis, jobs, alias: SetRoute, unserved) -> None:
    alias("chat", demo=1, away=1)
    made, chosen = [], set()
    with gateway(stack_redis.url, gateway_auth=True) as running:
        while len(made) < 64 and len(chosen) < 2:
            key = jobs.admin.create_api_key("shop")
            made.append(key)
            headers = {"authorization": f"Bearer {key.key.get_secret_value()}"}
            with httpx.Client(base_url=running.url, timeout=90, headers=headers) as http:
                one, other = models_of(http, jobs, {}, {})
                assert one == other
                chosen.add(one)
    for key in made:
        jobs.admin.revoke_api_key(key.id)
    assert chosen == {"demo", "away"}


def test_aliases_are_listed_and_a_batch_goes_through_one(openai: OpenAI, alias: SetRoute) -> None:
    alias("chat", demo=1, away=1)
    listed = {model.id: model for model in openai.models.list()}
    assert {"chat", "demo"} <= listed.keys()
    assert openai.models.retrieve("chat") == listed["chat"]
    alias("chat", demo=1)
    line = {"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", "body": ASKED}
    file = openai.files.create(file=("in.jsonl", json.dumps(line).encode()), purpose="batch")
    batch = openai.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
    )
    alias("chat", away=1)  # a batch keeps the aliases that it was made with
    wait_until(lambda: openai.batches.retrieve(batch.id).status == "completed")
    output = openai.files.content(openai.batches.retrieve(batch.id).output_file_id)
    assert json.loads(output.text)["response"]["body"]["model"] == "demo"
