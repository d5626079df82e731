"""The console's files, what it shows and what it does, asked for without a browser."""

import json
import re
from collections.abc import Iterator

import httpx
import pytest

from headrace.producers.gateway.console.assets import assets
from headrace.schemas import keys
from headrace.schemas.keys import Tag
from headrace.schemas.scripts import ClaimRequest, claim, recover, run
from headrace.schemas.settings.queue import QueueSettings

from ....support.gateways import gateway
from ....support.waiting import wait_until

pytestmark = pytest.mark.leaves_jobs

TAG = Tag("m")


@pytest.fixture
def console(redis, redis_url) -> Iterator[httpx.Client]:
    """A gateway without keys, on a Redis where the model `m` is known and nobody works."""
    redis.hset(keys.models(), "m", "{}")
    with gateway(redis_url) as running, httpx.Client(base_url=running.url, timeout=90) as http:
        yield http


def sections(http: httpx.Client, *wanted: str) -> dict[str, object]:
    """These sections of the overview, as a page that has just been opened gets them."""
    found: dict[str, object] = {}
    with http.stream("GET", "/console/api/overview") as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        name = ""
        for line in response.iter_lines():
            field, _, value = line.partition(": ")
            if field == "event":
                name = value
            elif field == "data":
                found[name] = json.loads(value)
            if all(each in found for each in wanted):
                return found
    raise AssertionError(f"only {list(found)}")


def dead_job(client, redis) -> str:
    """The id of a job whose worker crashed."""
    job = client.enqueue("x", model="m", max_attempts=1)
    run(redis, claim(TAG, ClaimRequest("worker-1", "n", 60_000, 10**6, 10)))
    run(redis, recover(TAG, "worker-1", QueueSettings(), blamed=True, how="killed by SIGSEGV"))
    return job.id


def test_its_files_are_served_with_their_types_a_strict_policy_and_a_tag(console):
    page = console.get("/console")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    linked = set(re.findall(r'(?:href|src)="console/assets/([^"]+)"', page.text))
    assert linked >= {"icon.svg", "console.css", "main.js"}
    types = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml", "html": "text/html"}
    for name in linked | set(assets()):
        served = console.get(f"/console/assets/{name}")
        assert served.status_code == 200, name
        assert served.headers["content-type"].startswith(types[name.rpartition(".")[2]])
        assert served.headers["cache-control"] == "no-cache"
        policy = served.headers["content-security-policy"]
        assert "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'" in policy
        assert "unsafe" not in policy
        again = console.get(f"/console/assets/{name}", headers={"if-none-match": served.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")


def test_its_modules_import_only_what_is_there():
    for name, asset in assets().items():
        for wanted in re.findall(r'from "\./([^"]+)"', asset.content.decode()):
            assert wanted in assets(), f"{name} imports {wanted}"


def test_a_path_that_leads_elsewhere_is_no_url(console):
    wrong = ("../assets.py", "..%2fassets.py", "%2e%2e/assets.py", "..%5cassets.py", "", "main.js%00", "/etc")
    for path in wrong:
        answer = console.get(f"/console/assets/{path}")
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "unknown_url"), path


def test_it_shows_what_waits_and_requeues_and_drops_dead_letters(console, client, redis):
    first, second = dead_job(client, redis), dead_job(client, redis)
    client.enqueue("y", model="m", tenant="acme")
    client.admin.set_tenant("acme", weight=3)
    shown = sections(console, "models", "queues", "workers", "tenants", "dead", "deliveries", "errors")
    assert [model["id"] for model in shown["models"]] == ["m"]
    assert [(queue["tenant"], queue["depth"]) for queue in shown["queues"]] == [("acme", 1)]
    assert [(each["tenant"], each["weight"]) for each in shown["tenants"]] == [("acme", 3.0)]
    assert shown["workers"] == shown["deliveries"] == []
    assert shown["errors"] == {}
    letters = {letter["job_id"]: letter for letter in shown["dead"]}
    assert letters.keys() == {first, second}
    for job, action, left in ((first, "requeue", [second]), (second, "drop", [])):
        named = {name: letters[job][name] for name in ("entry", "model", "partition")}
        done = console.post(f"/console/api/dead/{action}", json=named)
        assert (done.status_code, done.json()) == (200, {"id": job})
        assert [letter.job_id for letter in client.admin.dead_letters()] == left
        gone = console.post(f"/console/api/dead/{action}", json=named)
        assert gone.status_code == 404
    client.admin.drop_tenant("acme")


def test_it_shows_how_far_the_unfinished_batches_of_all_tenants_are(console):
    body = {"model": "m", "messages": [{"role": "user", "content": "x"}]}
    line = {"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", "body": body}
    upload = {"file": ("in.jsonl", json.dumps(line).encode() + b"\n")}
    file = console.post("/v1/files", files=upload, data={"purpose": "batch"}).json()
    asked = {"endpoint": line["url"], "input_file_id": file["id"], "completion_window": "24h"}
    batch = console.post("/v1/batches", json=asked).json()
    (shown,) = sections(console, "batches")["batches"]
    assert (shown["id"], shown["tenant"]) == (batch["id"], "default")
    assert shown["status"] in {"validating", "in_progress"}
    console.post(f"/v1/batches/{batch['id']}/cancel")
    wait_until(lambda: console.get(f"/v1/batches/{batch['id']}").json()["status"] == "cancelled")
    assert sections(console, "batches")["batches"] == []


def test_what_does_not_exist_and_what_is_no_request_is_refused_by_name(console):
    letter = {"entry": "1-0", "model": "m"}
    wrong = [
        ("dead/drop", {**letter, "entry": "*"}, "entry"),
        ("dead/drop", {**letter, "model": "{m}:x"}, "model"),
        ("dead/drop", {**letter, "partition": -1}, "partition"),
        ("dead/requeue", {**letter, "force": True}, "force"),
        ("deliveries/replay", {}, "id"),
        ("workers/drain", {"id": "w", "finish_s": -1}, "finish_s"),
    ]
    for path, body, field in wrong:
        refused = console.post(f"/console/api/{path}", json=body)
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, field)
    unknown = [("dead/drop", letter), ("deliveries/replay", {"id": "x"}), ("workers/drain", {"id": "x"})]
    for path, body in unknown:
        assert console.post(f"/console/api/{path}", json=body).status_code == 404


def test_a_page_from_elsewhere_can_neither_read_nor_write(console):
    elsewhere = (
        {"origin": "https://elsewhere.example"},
        {"origin": "null"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"host": "rebound.example"},
    )
    for headers in elsewhere:
        for answer in (
            console.get("/console/api/overview", headers=headers),
            console.post("/console/api/workers/drain", json={"id": "x"}, headers=headers),
        ):
            assert (answer.status_code, answer.json()["error"]["code"]) == (403, "wrong_origin"), headers


def test_where_keys_are_required_it_opens_to_an_operators_alone(client, redis, redis_url):
    redis.hset(keys.models(), "m", "{}")
    drain = {"url": "/console/api/workers/drain", "json": {"id": "nobody"}}
    with gateway(redis_url, gateway_auth=True) as running, httpx.Client(base_url=running.url) as http:
        assert http.get("/console").status_code == 200
        assert http.get("/console/api/overview").status_code == http.post(**drain).status_code == 401
        key = client.admin.create_api_key("acme")
        http.headers["authorization"] = f"Bearer {key.key.get_secret_value()}"
        assert http.get("/console/api/overview").status_code == http.post(**drain).status_code == 403
        operators = client.admin.create_api_key("acme", operator=True)
        http.headers["authorization"] = f"Bearer {operators.key.get_secret_value()}"
        assert [model["id"] for model in sections(http, "models")["models"]] == ["m"]
        assert http.post(**drain).status_code == 404
    for made in (key, operators):
        client.admin.revoke_api_key(made.id)


def test_nothing_is_read_once_the_last_page_is_closed(redis, redis_url):
    redis.hset(keys.models(), "m", "{}")
    with gateway(redis_url) as running, httpx.Client(base_url=running.url, timeout=90) as http:
        dashboard = running.server.config.app.state.dashboard
        assert dashboard.pages == 0
        sections(http, "models")
        wait_until(lambda: dashboard.pages == 0)
