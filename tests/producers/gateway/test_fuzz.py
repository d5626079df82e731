"""Whatever a client sends is answered, or refused with the API's error body, and the gateway serves on."""

import json
import random
import re
import socket
from collections.abc import Iterator
from contextlib import suppress

import httpx
import pytest

from headrace.producers.anthropic import request as messages
from headrace.producers.openai import chat, completions, embeddings, rerank, tokens
from headrace.producers.openai.responses import request as responses
from headrace.schemas.job import Job

from ...support.hostile import (
    FORM_KINDS,
    FORMS,
    HEADERS,
    IDS,
    LIES,
    NO_REQUESTS,
    NOBODY,
    ODD_NAMES,
    QUERIES,
    VALUES,
)
from .test_requests import raw

pytestmark = [pytest.mark.serial, pytest.mark.xdist_group("gateway"), pytest.mark.usefixtures("worker")]

JSON = {"content-type": "application/json"}
SEED = 20

INTERNAL = re.compile(
    r"Traceback|site-packages|\.py\b|headrace\.|redis://|pydantic|<class|object at 0x|0x7f|Errno"
)

CHAT = {"model": "demo", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}
PROMPT = {"model": "demo", "prompt": "Hi", "max_tokens": 1}
BATCH = {"endpoint": "/v1/chat/completions", "input_file_id": "file-x", "completion_window": "24h"}
VALID = {
    "/v1/chat/completions": CHAT,
    "/v1/responses": {"model": "demo", "input": "Hi", "max_output_tokens": 1},
    "/v1/messages": CHAT,
    "/v1/messages/count_tokens": {"model": "demo", "messages": CHAT["messages"]},
    "/v1/completions": PROMPT,
    "/v1/embeddings": {"model": "demo", "input": "Hi"},
    **{f"{version}/score": {"model": "demo", "text_1": "Hi", "text_2": "Ho"} for version in ("", "/v1")},
    **{
        f"{version}/rerank": {"model": "demo", "query": "Hi", "documents": ["Ho"]}
        for version in ("", "/v1", "/v2")
    },
    "/tokenize": {"model": "demo", "prompt": "Hi"},
    "/detokenize": {"model": "demo", "tokens": [72, 105]},
    "/v1/jobs": PROMPT,
    "/v1/batches": BATCH,
    "/console/api/jobs/cancel": {"id": NOBODY},
    "/console/api/deliveries/replay": {"id": NOBODY},
    "/console/api/workers/drain": {"id": "nobody"},
    "/console/api/dead/requeue": {"entry": "1-1", "model": "demo"},
    "/console/api/dead/drop": {"entry": "1-1", "model": "demo"},
}
"""A body for each route that takes JSON, from which others are made."""

INNER = (
    *(f"webhook.{name}" for name in ("url", "events", "secret", "payload", "self")),
    *(f"messages.{name}" for name in ("role", "content", "name", "tool_calls", "self", "__class__")),
    *(f"metadata.{name}" for name in ("a", "", "user_id", "self", "x" * 65)),
    *(f"stream_options.{name}" for name in ("include_usage", "self")),
    *(f"output_expires_after.{name}" for name in ("anchor", "seconds", "self")),
    *("text.format", "text.self", "reasoning.effort", "reasoning.self"),
)
"""Names of fields of objects within a body."""

KNOWN = {
    "/v1/chat/completions": chat.FIELDS.known,
    "/v1/completions": completions.FIELDS.known,
    "/v1/messages": messages.FIELDS.known,
    "/v1/messages/count_tokens": messages.FIELDS.known,
    "/v1/responses": responses.FIELDS.known,
    "/v1/embeddings": embeddings.FIELDS.known,
    **{f"{version}/score": rerank.SCORE.known for version in ("", "/v1")},
    **{f"{version}/rerank": rerank.RERANK.known for version in ("", "/v1", "/v2")},
    "/tokenize": tokens.TOKENIZE.known,
    "/detokenize": tokens.DETOKENIZE.known,
    "/v1/jobs": Job.model_fields.keys(),
    "/v1/batches": {*BATCH, "metadata", "output_expires_after"},
}
OPERATORS_FIELDS = {"id", "entry", "model", "partition", "from_scratch", "finish_s"}

OPERATORS = (
    *(
        ("POST", f"/console/api/{path}")
        for path in ("jobs/cancel", "dead/requeue", "dead/drop", "workers/drain")
    ),
    *(("POST", "/console/api/deliveries/replay"), ("GET", "/console/api/jobs/{job_id}/stream")),
    ("GET", "/console/assets/{name}"),
)
"""Routes that the schema leaves out."""


@pytest.fixture(scope="module")
def routes(shared_gateway) -> list[tuple[str, str]]:
    """Every method and path, in order."""
    paths = httpx.get(f"{shared_gateway.url}/openapi.json").json()["paths"]
    listed = ((method.upper(), path) for path, methods in paths.items() for method in methods)
    return [*sorted(listed), *OPERATORS]


@pytest.fixture(autouse=True)
def serves_after(shared_gateway) -> Iterator[None]:
    """The gateway still answers a request, and has nothing under way."""
    yield
    answer = httpx.post(f"{shared_gateway.base_url}/chat/completions", json=CHAT, timeout=90)
    assert answer.json()["usage"]["completion_tokens"] == 1


def check(status: int, text: str, path: str, sent: object, method: str = "") -> None:
    """An answer, or a refusal with the API's error body and nothing internal."""
    told = f"{path} with {str(sent)[:300]!r}: {status} {text[:2000]}"
    assert status < 500 or (path == "/readyz" and status == 503), told
    if status < 400 or (method == "HEAD" and not text):  # it has a body if it couldn't be read that far
        return
    body = json.loads(text)
    if path.startswith("/v1/messages"):
        assert body["type"] == "error", told
        assert {"type", "message"} <= body["error"].keys(), told
    else:
        assert body.keys() == {"error"}, told
        assert body["error"].keys() == {"message", "type", "param", "code"}, told
    assert body["error"]["message"], told
    assert len(text) < 2000 or "x" * 1000 in str(sent), told
    assert not INTERNAL.search(text), told


def filled(path: str, name: str = NOBODY) -> str:
    return re.sub(r"{\w+(:path)?}", lambda _: name, path)


def with_field(body: dict, field: str, value: str) -> bytes:
    """The body as JSON with the text of a value in a field's place, which may be one of an inner object."""
    outer, _, inner = field.partition(".")
    if inner and outer == "messages":
        body = body | {"messages": [{"role": "user", "content": "Hi", inner: "@@"}]}
    elif inner and outer:
        body = body | {outer: {"url": "https://a.example"} if outer == "webhook" else {}}
        body[outer] = body[outer] | {inner: "@@"}
    else:
        body = body | {field: "@@"}
    return json.dumps(body).replace('"@@"', value).encode()


def test_every_field_at_every_kind_of_value(http, routes):
    chosen = random.Random(SEED)
    for method, path in routes:
        if path not in VALID or method != "POST":
            continue
        known = sorted(KNOWN.get(path, OPERATORS_FIELDS)) * 2  # they are tried with more values
        for field in (*known, *INNER, *ODD_NAMES):
            body = with_field(VALID[path], field, chosen.choice(VALUES))
            answer = http.post(path, content=body, headers=JSON)
            check(answer.status_code, answer.text, path, body)


def test_bodies_that_are_no_requests(http, routes):
    chosen = random.Random(SEED)
    kinds = ("application/json", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x")
    for method, path in routes:
        if method != "POST":
            continue
        for body in chosen.sample(NO_REQUESTS, 20):
            for kind in kinds if len(body) < 10 else kinds[:1]:
                answer = http.post(filled(path), content=body, headers={"content-type": kind})
                check(answer.status_code, answer.text, path, (kind, body))


def test_ids_and_queries_of_every_kind(shared_gateway, routes):
    for method, path in routes:
        names = IDS if "{" in path else ("",)
        urls = [(filled(path, name), "") for name in names] + [(filled(path), query) for query in QUERIES]
        for url, query in urls:
            line = f"{method} {url}?{query} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 0\r\n"
            check(*sent(shared_gateway.port, line.encode()), path, line, method)


def test_methods_that_a_route_does_not_have(http, routes):
    for _, path in routes:
        for method in ("PUT", "PATCH", "TRACE", "PROPFIND"):
            answer = http.request(method, filled(path))
            check(answer.status_code, answer.text, path, method)


def test_headers_of_every_kind(shared_gateway, routes):
    chosen = random.Random(SEED)
    for method, path in routes:
        body = json.dumps(VALID.get(path, {})).encode() if method == "POST" else b""
        for name, value in chosen.sample(HEADERS, 14):
            given = {"host": "localhost", "content-type": "application/json", "content-length": len(body)}
            lines = "".join(f"{each}: {text}\r\n" for each, text in (given | {name: value}).items())
            head = f"{method} {filled(path)} HTTP/1.1\r\n{lines}".encode("latin-1")
            check(*sent(shared_gateway.port, head, body), path, (name, value), method)


def sent(port: int, head: bytes, body: bytes = b"") -> tuple[int, str]:
    """The status and the body of the answer to a request as it is."""
    answer = raw(port, head + b"connection: close\r\n\r\n" + body)
    answer = answer.removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert answer.count(b"HTTP/1.1 ") == 1, answer
    top, _, text = answer.partition(b"\r\n\r\n")
    assert b"\nx-injected" not in top.lower(), answer
    return int(top.split()[1]), text.decode()


def test_requests_that_lie_about_themselves(shared_gateway):
    for lie in LIES:
        answer = b""
        with (
            socket.create_connection(("127.0.0.1", shared_gateway.port), timeout=60) as connection,
            suppress(ConnectionResetError),  # it may be refused while it is being sent
        ):
            connection.sendall(lie)
            connection.shutdown(socket.SHUT_WR)
            while more := connection.recv(65536):
                answer += more
        assert not re.search(rb"HTTP/1.1 5\d\d", answer), (lie[:200], answer)
        assert not INTERNAL.search(answer.decode(errors="replace")), (lie[:200], answer)


def test_forms_that_are_malformed(http):
    kept = 0
    for kind in FORM_KINDS:
        for body in FORMS:
            answer = http.post("/v1/files", content=body, headers={"content-type": kind.encode("latin-1")})
            check(answer.status_code, answer.text, "/v1/files", (kind[:100], body))
            if answer.is_success:
                file = f"/v1/files/{answer.json()['id']}"
                assert http.get(f"{file}/content").is_success
                assert http.delete(file).is_success
                kept += 1
    assert kept
