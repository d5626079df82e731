"""Whatever a client sends, on any route: a refusal with OpenAI's error body, and never a 5xx."""

import itertools
import json
from typing import Any

import httpx
import pytest

pytestmark = [pytest.mark.serial, pytest.mark.xdist_group("gateway"), pytest.mark.usefixtures("worker")]

VALUES: tuple[Any, ...] = (
    *(None, True, 0, -1, 1e308, 2**63, 2**1023, "", "\x00", "x" * 5000, "\u202e", "../../etc/passwd"),
    *([], [[]], [None], [{}], {}, {"": None}, {"type": 1}, [1, "a"], [[[[[[[[]]]]]]]]),
)

FIELDS = (
    *("model", "messages", "prompt", "input", "max_tokens", "temperature", "stop", "logit_bias", "metadata"),
    *("stream", "stream_options", "tools", "seed", "n", "webhook", "job_class", "service_tier", "store"),
    *("system", "input_file_id", "endpoint", "previous_response_id", "response_format", "user", "tenant"),
)

NAMES = (
    "..%2f..%2fetc%2fpasswd",
    "%00",
    "%ff%fe",
    "%0d%0aset-cookie:%20a=b",
    "x" * 3000,
    "~",
    "*",
    "{}",
    "%25",
)

USUAL = {"model": "demo", "messages": [{"role": "user", "content": "x"}], "max_tokens": 1}


def routes(http: httpx.Client) -> list[tuple[str, str]]:
    paths = http.get("/openapi.json").json()["paths"]
    return sorted((method.upper(), path) for path, methods in paths.items() for method in methods)


def check(response: httpx.Response, sent: object) -> None:
    if response.is_success or response.status_code == 304:
        return
    assert 400 <= response.status_code < 500, (sent, response.text)
    body = response.json()
    error = body["error"]
    assert error["message"], sent
    assert {"message", "type"} <= error.keys(), sent
    assert "set-cookie" not in response.headers


def test_odd_bodies_are_refused(http):
    bodies = [json.dumps({**USUAL, field: value}) for field, value in itertools.product(FIELDS, VALUES)]
    bodies += ["", "{", "[]", "null", "1", '"x"', '{"a":' * 200 + "1" + "}" * 200, '{"model": "\\ud800"}']
    posts = [path for method, path in routes(http) if method == "POST" and "{" not in path]
    assert len(posts) >= 4
    kind = {"content-type": "application/json"}
    for number, body in enumerate(bodies):
        path = posts[number % len(posts)]
        check(http.post(path, content=body, headers=kind), (path, body[:200]))


def test_odd_names_types_and_headers_are_refused(http):
    headers = {
        "last-event-id": "\xff",
        "idempotency-key": "\xff",
        "authorization": "Bearer \xff",
        "range": "x",
    }
    for method, path in routes(http):
        if "{" in path:
            for name in NAMES:
                prefix, _, rest = path.partition("{")
                url = f"{prefix}{name}{rest.partition('}')[2]}"
                check(http.request(method, url, params={"limit": "x", "stream": "x"}), (method, url))
                check(http.request(method, url), (method, url))
        for name, value in headers.items():
            given = {name: value.encode("latin-1")}
            check(http.request(method, path, headers=given, content=b"{}"), (method, path, given))
        for kind in (
            "text/plain",
            "multipart/form-data",
            "multipart/form-data; boundary=x",
            "a/b",
            ";",
            "x" * 500,
        ):
            check(
                http.request(method, path, content=b"\x00", headers={"content-type": kind}),
                (method, path, kind),
            )
        for wrong in ("PUT", "PATCH", "TRACE", "BREW"):
            check(http.request(wrong, path), (wrong, path))
