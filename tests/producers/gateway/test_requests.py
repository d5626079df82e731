"""What holds for every request: its id, its bounds, and OpenAI's error body for whatever is wrong with it."""

import json
import socket
import ssl

import httpx
import pytest
import trustme

from headrace.schemas import keys
from headrace.schemas.redis.connection import connect

from ...support.gateways import gateway
from ...support.waiting import wait_until

pytestmark = [pytest.mark.serial, pytest.mark.xdist_group("gateway")]


def error_of(response: httpx.Response, status: int) -> dict[str, str]:
    """The error of a refusal, which has OpenAI's four fields and names nothing internal."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"].startswith("application/json")
    (error,) = response.json().values()
    assert error.keys() == {"message", "type", "param", "code"}
    assert not any(word in response.text for word in ("Traceback", "headrace.", ".py", "redis://"))
    return error


def raw(port: int, data: bytes) -> bytes:
    """What comes back on a connection until the gateway closes it."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall(data)
        answer = b""
        while more := connection.recv(65536):
            answer += more
    return answer


def test_an_unknown_url_and_a_wrong_method_have_openais_error_body(http):
    assert error_of(http.get("/v1/nothing"), 404)["code"] == "unknown_url"
    refused = http.put("/v1/models")
    assert error_of(refused, 405)["type"] == "invalid_request_error"
    assert refused.headers["allow"] == "GET"


def test_a_request_id_is_kept_or_made(http):
    assert http.get("/healthz", headers={"x-request-id": "mine-7"}).headers["x-request-id"] == "mine-7"
    for wrong in ("", "a b", "x" * 200, "é"):
        made = http.get("/healthz", headers={"x-request-id": wrong.encode()}).headers["x-request-id"]
        assert made.startswith("req_")
        assert made != wrong


def test_every_response_forbids_sniffing_framing_and_caching(http):
    for path in ("/healthz", "/v1/nothing", "/openapi.json"):
        headers = http.get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "server" not in headers
        assert "access-control-allow-origin" not in headers


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b'"text"',
        b"\xff\xfe",
        b'{"model": NaN}',
        b'{"model": -Infinity}',
        b'{"seed": ' + b"9" * 5000 + b"}",
        b'{"seed": ' + b"9" * 400 + b"}",
        b'{"temperature": 1e999}',
        b'{"messages": ' + b"[" * 100 + b"]" * 100 + b"}",
        b'{"messages": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"prompt": "\\ud800"}',
        b'{"\\udfff": 1}',
    ],
    ids=range(14),
)
def test_what_is_no_json_that_can_be_handed_on_is_refused(http, body):
    response = http.post("/v1/jobs", content=body, headers={"content-type": "application/json"})
    assert error_of(response, 400)["code"] == "invalid_json"


def test_a_body_that_is_not_json_is_refused_by_its_type(http):
    response = http.post("/v1/jobs", content=b"{}", headers={"content-type": "text/plain"})
    assert error_of(response, 415)["code"] == "unsupported_media_type"


def test_a_body_that_is_too_large_is_refused_before_it_is_read(http, shared_gateway):
    most = shared_gateway.state.settings.gateway_max_body_bytes
    head = (
        f"POST /v1/jobs HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {most + 1}"
    )
    answer = raw(shared_gateway.port, f"{head}\r\n\r\n".encode())
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"request_too_large" in answer

    parts = (b" " * 65536 for _ in range(most // 65536 + 2))
    response = http.post("/v1/jobs", content=parts, headers={"content-type": "application/json"})
    assert error_of(response, 413)["code"] == "request_too_large"


def test_what_is_not_http_and_headers_that_are_too_large_are_refused(shared_gateway):
    port = shared_gateway.port
    assert raw(port, b"hello\r\n\r\n").startswith(b"HTTP/1.1 400 ")
    large = b"GET /healthz HTTP/1.1\r\nhost: x\r\n" + b"a: " + b"b" * 70_000 + b"\r\n\r\n"
    assert b"headers_too_large" in raw(port, large)
    many = b"GET /healthz HTTP/1.1\r\nhost: x\r\n" + b"a: b\r\n" * 20_000 + b"\r\n"
    assert raw(port, many).startswith(b"HTTP/1.1 431 ")
    assert raw(port, b"GET /" + b"x" * 70_000 + b" HTTP/1.1\r\n\r\n").startswith(b"HTTP/1.1 431 ")
    assert raw(port, b"GET /\xff HTTP/1.1\r\nhost: x\r\n\r\n").startswith(b"HTTP/1.1 400 ")


def test_clients_that_send_slowly_or_lie_about_the_length_are_disconnected(stack_redis):
    bounds = {"gateway_header_s": 0.3, "gateway_body_s": 0.3, "gateway_idle_s": 1}
    with gateway(stack_redis.url, **bounds) as quick:
        head = b"POST /v1/jobs HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        for begun in (b"", b"GET /heal", head, head + b"content-length: 100\r\n\r\n{"):
            answer = raw(quick.port, begun)
            assert answer.startswith(b"HTTP/1.1 408 ") or answer == b"", answer
        whole = b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n"
        answer = raw(quick.port, whole + whole + b"GET /heal")
        assert answer.count(b"HTTP/1.1 200 ") == 2


def test_health_and_readiness(http, worker, own_redis):
    assert http.get("/healthz").json() == {"ok": True}
    assert http.get("/readyz").json()["ok"]
    with gateway(own_redis.url) as lonely:
        assert httpx.get(f"{lonely.url}/readyz").json()["problems"] == ["no worker serves a model"]
        own_redis.stop()
        refused = httpx.get(f"{lonely.url}/readyz")
        assert (refused.status_code, refused.json()["problems"]) == (503, ["Redis does not answer"])
        assert httpx.get(f"{lonely.url}/healthz").status_code == 200
        away = httpx.get(f"{lonely.url}/v1/models", timeout=60)
        assert error_of(away, 503)["type"] == "server_error"
        assert int(away.headers["retry-after"]) >= 1


def test_models_are_listed_and_found_by_name(http, worker):
    (model,) = http.get("/v1/models").json()["data"]
    assert (model["id"], model["object"], model["owned_by"]) == ("demo", "model", "headrace")
    assert http.get("/v1/models/demo").json() == model
    missing = error_of(http.get("/v1/models/other/name"), 404)
    assert (missing["code"], missing["param"]) == ("model_not_found", "model")


def test_the_schema_is_served_and_names_every_route(http):
    paths = json.loads(http.get("/openapi.json").content)["paths"]
    assert {"/healthz", "/readyz", "/v1/models", "/v1/models/{model}"} <= paths.keys()


def test_a_client_that_reads_nothing_is_disconnected_and_its_job_goes_on(stack_redis, worker, jobs):
    asked = {"model": "demo", "prompt": "x", "max_tokens": 400, "ignore_eos": True, "logprobs": 20}
    with (
        gateway(stack_redis.url, gateway_write_s=0.3, send_buffer=4096) as impatient,
        socket.socket() as lazy,
    ):
        job_id = httpx.post(f"{impatient.base_url}/jobs", json=asked, timeout=90).json()["id"]
        lazy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        lazy.connect(("127.0.0.1", impatient.port))
        lazy.sendall(f"GET /v1/jobs/{job_id}/stream HTTP/1.1\r\nhost: x\r\n\r\n".encode())
        wait_until(lambda: impatient.state.streams)
        wait_until(lambda: not impatient.state.streams)
        assert jobs.job(job_id).result(timeout_s=90).usage.completion_tokens == 400


def test_it_speaks_https_with_a_certificate_and_says_that_it_always_will(stack_redis, tmp_path):
    authority = trustme.CA()
    mine = authority.issue_cert("127.0.0.1")
    files = {"gateway_tls_cert": tmp_path / "cert.pem", "gateway_tls_key": tmp_path / "key.pem"}
    mine.private_key_pem.write_to_path(files["gateway_tls_key"])
    for blob in mine.cert_chain_pems:
        blob.write_to_path(files["gateway_tls_cert"], append=True)
    context = ssl.create_default_context()
    authority.configure_trust(context)
    with gateway(stack_redis.url, **files) as secure, httpx.Client(verify=context) as client:
        answer = client.get(f"{secure.url}/healthz")
        assert answer.json() == {"ok": True}
        assert answer.headers["strict-transport-security"]


def test_pages_of_the_origins_that_are_named_may_call_it(stack_redis):
    with gateway(stack_redis.url, gateway_cors_origins="https://app.example") as open_to_one:
        for origin, allowed in (("https://app.example", True), ("https://other.example", False)):
            asked = {"origin": origin, "access-control-request-method": "POST"}
            answer = httpx.options(f"{open_to_one.base_url}/jobs", headers=asked)
            assert (answer.headers.get("access-control-allow-origin") == origin) is allowed
            assert answer.headers["x-request-id"]


def test_a_request_sent_again_finds_its_job_though_the_gateway_now_fills_in_other_defaults(
    http, jobs, stack_redis, unserved
):
    asked = {
        "/v1/responses": {"model": unserved, "input": "Hello", "background": True},
        "/v1/jobs": {"model": unserved, "prompt": "Hello", "idempotency_key": "defaults-job"},
    }
    key = {"idempotency-key": "defaults"}
    first = {path: http.post(path, json=body, headers=key).json()["id"] for path, body in asked.items()}
    with connect(stack_redis.url) as redis:  # a worker with less memory has registered
        redis.hset(keys.models(), unserved, json.dumps({"id": unserved, "context_tokens": 128}))
    with (
        gateway(stack_redis.url, gateway_job_class="batch") as changed,
        httpx.Client(base_url=changed.url, timeout=90, headers=key) as other,
    ):
        assert {path: other.post(path, json=body).json()["id"] for path, body in asked.items()} == first
        given = {"/v1/responses": {"max_output_tokens": 9}, "/v1/jobs": {"job_class": "batch"}}
        for path, body in asked.items():
            refused = other.post(path, json=body | given[path])
            assert error_of(refused, 409)["code"] == "idempotency_conflict"
    for job_id in first.values():
        jobs.job(job_id.removeprefix("resp_")).cancel()
