"""Who may: keys, what they allow, and that one tenant's key finds nothing of another's."""

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
        refused = http.post("/v1/jobs", json={"model": "demo", "prompt": "x", "webhook": webhook})
        assert error_of(refused, 403)["code"] == "webhook_not_allowed"


def test_nothing_of_one_tenant_is_found_by_another(guarded, new_key, jobs):
    """Every route that names something, walked with a stranger's key: the same answer as for nothing."""
    with with_key(guarded, new_key("owner")) as owner, with_key(guarded, new_key("stranger")) as stranger:
        chat = owner.post("/v1/chat/completions", json=ASKED | {"store": True}).json()
        job_id = chat["id"].removeprefix("chatcmpl-")
        ids = {"job_id": job_id, "completion_id": chat["id"], "model": "demo"}
        nobodys = re.sub("^...", "000", job_id)
        missing = {"job_id": nobodys, "completion_id": f"chatcmpl-{nobodys}"}
        walked = 0
        for path, methods in guarded_paths(owner).items():
            names = re.findall(r"{(\w+)}", path)
            if not names or names == ["model"]:
                continue
            for method in methods:
                found = owner.request(method, path.format(**ids), json={} if method == "post" else None)
                hidden, absent = (
                    stranger.request(method, path.format(**which), json={} if method == "post" else None)
                    for which in (ids, missing)
                )
                assert found.status_code < 300, (path, found.text)
                assert hidden.status_code == absent.status_code == 404, path
                assert shape_of(hidden, ids) == shape_of(absent, missing), path
                walked += 1
        assert walked >= 4
        assert jobs.job(job_id).status().tenant == "owner"


def guarded_paths(http: httpx.Client) -> dict[str, dict]:
    return http.get("/openapi.json").json()["paths"]


def shape_of(response: httpx.Response, ids: dict[str, str]) -> str:
    """The body without the id that was asked for."""
    text = response.text
    for name in ids.values():
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
