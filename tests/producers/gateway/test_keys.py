"""Who may: keys, what they allow, and that one tenant's key finds nothing of another's."""

import json
import re

import httpx
import openai
import pytest
from openai import OpenAI

from headrace import Client

from ...support.gateways import gateway
from .test_requests import error_of

pytestmark = [pytest.mark.serial, pytest.mark.xdist_group("gateway"), pytest.mark.usefixtures("worker")]

ASKED = {"model": "demo", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4}


@pytest.fixture(scope="module")
def guarded(stack_redis):
    """A gateway that wants keys."""
    with gateway(stack_redis.url, gateway_auth=True) as running:
        yield running


@pytest.fixture
def new_key(stack_redis):
    """Makes keys, which are revoked in the end."""
    with Client(stack_redis.url) as client:
        made = []

        def make(tenant: str, **fields) -> str:
            made.append(client.admin.create_api_key(tenant, **fields))
            return made[-1].key.get_secret_value()

        yield make
        for key in made:
            if key.id in {known.id for known in client.admin.api_keys()}:
                client.admin.revoke_api_key(key.id)


def with_key(running, key: str) -> httpx.Client:
    return httpx.Client(base_url=running.url, timeout=90, headers={"authorization": f"Bearer {key}"})


def test_without_a_key_or_with_a_wrong_one_nothing_is_answered(guarded, new_key):
    key = new_key("shop")
    wrong = f"{key[:-1]}{'A' if key[-1] != 'A' else 'B'}"
    for headers in ({}, {"authorization": "Bearer"}, {"authorization": f"Basic {key}"}):
        refused = httpx.get(f"{guarded.base_url}/models", headers=headers)
        assert error_of(refused, 401)["code"] == "missing_api_key"
        assert refused.headers["www-authenticate"] == "Bearer"
    refused = httpx.get(f"{guarded.base_url}/models", headers={"authorization": f"Bearer {wrong}"})
    assert error_of(refused, 401)["code"] == "invalid_api_key"
    assert httpx.get(f"{guarded.base_url}/models", headers={"x-api-key": key}).status_code == 200
    assert httpx.get(f"{guarded.url}/healthz").status_code == 200
    with (
        OpenAI(base_url=guarded.base_url, api_key=wrong) as client,
        pytest.raises(openai.AuthenticationError),
    ):
        client.models.list()


def test_a_revoked_key_is_refused_at_once(guarded, new_key, jobs):
    key = new_key("shop")
    with with_key(guarded, key) as http:
        assert http.get("/v1/models").status_code == 200
        jobs.admin.revoke_api_key(key.split("_")[1])
        assert error_of(http.get("/v1/models"), 401)["code"] == "invalid_api_key"


def test_a_key_reaches_the_models_classes_and_hosts_that_it_names(guarded, new_key, jobs):
    with with_key(guarded, new_key("shop", models=["other"])) as http:
        assert http.get("/v1/models").json()["data"] == []
        refused = http.post("/v1/chat/completions", json=ASKED)
        assert refused.json() == http.post("/v1/chat/completions", json=ASKED | {"model": "demo"}).json()
        assert error_of(refused, 404)["code"] == "model_not_found"
    with with_key(guarded, new_key("shop", classes=["batch"], webhook_hosts=["shop.example"])) as http:
        made = http.post("/v1/chat/completions", json=ASKED).json()
        assert jobs.job(made["id"].removeprefix("chatcmpl-")).status().job_class == "batch"
        refused = http.post("/v1/chat/completions", json=ASKED | {"service_tier": "priority"})
        assert error_of(refused, 403)["code"] == "class_not_allowed"
        webhook = {"url": "https://elsewhere.example/hook"}
        batch = {"endpoint": "/v1/chat/completions", "completion_window": "24h", "input_file_id": "file-1"}
        asked = {
            "/v1/jobs": {"model": "demo", "prompt": "x"},
            "/v1/responses": {"model": "demo", "input": "x", "background": True},
            "/v1/batches": batch,
        }
        for path, body in asked.items():
            refused = http.post(path, json=body | {"webhook": webhook})
            assert error_of(refused, 403)["code"] == "webhook_not_allowed"


LINE = json.dumps({"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", "body": ASKED})


def things_of(http: httpx.Client, paths: dict[str, dict]) -> dict[str, str]:
    """One of everything that a route names, made with this key: the name in the route, and the id."""
    chat = http.post("/v1/chat/completions", json=ASKED | {"store": True}).json()["id"]
    file = http.post("/v1/files", files={"file": ("in.jsonl", LINE)}, data={"purpose": "batch"}).json()["id"]
    batch = {"endpoint": "/v1/chat/completions", "input_file_id": file, "completion_window": "24h"}
    made = {
        "job_id": chat.removeprefix("chatcmpl-"),
        "completion_id": chat,
        "file_id": file,
        "batch_id": http.post("/v1/batches", json=batch).json()["id"],
    }
    if "/v1/responses" in paths:
        asked = {"model": "demo", "input": "Hello", "max_output_tokens": 4, "store": True}
        made["response_id"] = http.post("/v1/responses", json=asked).json()["id"]
    return made


def test_nothing_of_one_tenant_is_found_by_another(guarded, new_key):
    """Every route that names something, walked with a stranger's key: the same answer as for nothing."""
    with with_key(guarded, new_key("owner")) as owner, with_key(guarded, new_key("stranger")) as stranger:
        paths = owner.get("/openapi.json").json()["paths"]
        mine = things_of(owner, paths)
        nobodys = {
            name: re.sub("[0-9a-z]{3}(?=[0-9a-z]{8})", "000", made, count=1) for name, made in mine.items()
        }
        walked = [
            (method, path)
            for path, methods in paths.items()
            for method in methods
            if "{" in path and "{model}" not in path
        ]
        assert len(walked) >= 8
        for method, path in sorted(walked, key=lambda each: each[0] == "delete"):
            body = {} if method == "post" else None
            hidden, absent = (
                stranger.request(method, path.format(**names), json=body) for names in (mine, nobodys)
            )
            assert hidden.status_code == absent.status_code == 404, (method, path, hidden.text)
            assert without(hidden.text, mine) == without(absent.text, nobodys), (method, path)
            assert hidden.headers.keys() == absent.headers.keys(), (method, path)
            found = owner.request(method, path.format(**mine), json=body)
            assert found.status_code < 300, (method, path, found.text)
        for path, name in (("/v1/files", "file_id"), ("/v1/batches", "batch_id")):
            assert stranger.get(path).json()["data"] == []
            assert stranger.get(path, params={"after": mine[name]}).json()["data"] == []
        mine = things_of(owner, paths)
        batch = {"endpoint": "/v1/chat/completions", "completion_window": "24h"}
        following = {"model": "demo", "input": "Hello"}
        for path, field, name, asked in (
            ("/v1/batches", "input_file_id", "file_id", batch),
            ("/v1/responses", "previous_response_id", "response_id", following),
        ):
            hidden, absent = (
                stranger.post(path, json=asked | {field: names[name]}) for names in (mine, nobodys)
            )
            assert 400 <= hidden.status_code == absent.status_code < 500, path
            assert without(hidden.text, mine) == without(absent.text, nobodys), path


def without(text: str, names: dict[str, str]) -> str:
    """A body without the ids that were asked for."""
    for name in sorted(names.values(), key=len, reverse=True):
        text = text.replace(name, "…")
    return text


def test_a_tenant_over_its_rate_is_told_what_is_left_and_when_to_come_back(guarded, new_key, jobs):
    jobs.admin.set_tenant("limited", requests_per_minute=2, tokens_per_minute=10_000)
    key = new_key("limited")
    with with_key(guarded, key) as http:
        first = http.post("/v1/chat/completions", json=ASKED)
        assert first.headers["x-ratelimit-limit-requests"] == "2"
        assert first.headers["x-ratelimit-remaining-requests"] == "1"
        assert 9000 < int(first.headers["x-ratelimit-remaining-tokens"]) < 10_000
        assert first.headers["x-ratelimit-reset-requests"].endswith("s")
        http.post("/v1/chat/completions", json=ASKED)
        refused = http.post("/v1/chat/completions", json=ASKED)
        assert error_of(refused, 429)["code"] == "rate_limit_exceeded"
        assert 1 <= int(refused.headers["retry-after"]) <= 60
        assert refused.headers["x-ratelimit-remaining-requests"] == "0"
    client = OpenAI(base_url=guarded.base_url, api_key=key, max_retries=0)
    with client, pytest.raises(openai.RateLimitError):
        client.chat.completions.create(**ASKED)
    jobs.admin.drop_tenant("limited")


def test_a_full_queue_is_unavailable_for_a_while(guarded, new_key, jobs):
    jobs.admin.set_tenant("full", max_queued_jobs=0)
    with with_key(guarded, new_key("full")) as http:
        refused = http.post("/v1/chat/completions", json=ASKED)
        assert error_of(refused, 503)["code"] == "queue_full"
        assert int(refused.headers["retry-after"]) >= 1
    jobs.admin.drop_tenant("full")
