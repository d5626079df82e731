"""`/v1/batches`, asked by OpenAI's own client; worker, gateway and Redis are real."""

import json
from collections.abc import Iterator
from contextlib import contextmanager

import openai
import pytest

from ...support.waiting import wait_until

pytestmark = [pytest.mark.serial, pytest.mark.xdist_group("gateway")]

URL = "/v1/chat/completions"


def request(custom_id: str, **body: object) -> bytes:
    asked = {"model": "demo", "messages": [{"role": "user", "content": f"Say {custom_id}"}], "max_tokens": 4}
    line = {"custom_id": custom_id, "method": "POST", "url": URL, "body": {**asked, **body}}
    return json.dumps(line).encode() + b"\n"


@contextmanager
def client_of(base_url: str, **more: object) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=base_url, api_key="-", _strict_response_validation=True, **more) as client:
        yield client


@pytest.fixture(scope="module")
def client(shared_gateway):
    with client_of(shared_gateway.base_url, max_retries=0) as client:
        yield client


def submit(client: openai.OpenAI, *lines: bytes, **asked: object) -> openai.types.Batch:
    file = client.files.create(file=("in.jsonl", b"".join(lines)), purpose="batch")
    given = {"endpoint": URL, "completion_window": "24h", **asked}
    return client.batches.create(input_file_id=file.id, **given)


def ended(client: openai.OpenAI, batch_id: str) -> openai.types.Batch:
    def look() -> openai.types.Batch | None:
        batch = client.batches.retrieve(batch_id)
        return batch if batch.status in {"completed", "failed", "cancelled", "expired"} else None

    return wait_until(look)


def answers(client: openai.OpenAI, file_id: str | None) -> dict[str, dict]:
    """A file's lines by `custom_id`; the test fails where one is there twice."""
    if file_id is None:
        return {}
    lines = [json.loads(line) for line in client.files.content(file_id).iter_lines()]
    found = {line["custom_id"]: line for line in lines}
    assert len(found) == len(lines)
    return found


def test_a_batch_goes_from_upload_to_answers(client, worker):
    lines = [request(f"{i}") for i in range(20)]
    batch = submit(client, *lines, request("wrong", temperature=-1), metadata={"for": "a test"})
    assert (batch.status, batch.object) == ("validating", "batch")
    done = ended(client, batch.id)
    assert (done.status, done.metadata, done.model) == ("completed", {"for": "a test"}, "demo")
    counts = done.request_counts
    assert (counts.total, counts.completed, counts.failed) == (21, 20, 1)
    assert 20 <= done.usage.output_tokens <= 80
    assert done.usage.total_tokens == done.usage.input_tokens + done.usage.output_tokens
    output, errors = answers(client, done.output_file_id), answers(client, done.error_file_id)
    assert output.keys() == {f"{i}" for i in range(20)}
    for line in output.values():
        openai.types.chat.ChatCompletion.model_validate(line["response"]["body"], strict=True)
    assert errors["wrong"]["response"]["body"]["error"]["param"] == "temperature"
    assert client.batches.list(limit=1).data == [done]
    assert client.files.retrieve(done.output_file_id).purpose == "batch_output"


def test_the_webhook_about_a_batch_is_there_as_soon_as_it_has_ended(client, jobs, worker):
    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    webhook = {"url": "https://backend.example/hook", "secret": secret}
    batch = submit(client, request("a"), extra_body={"webhook": webhook})
    assert secret not in ended(client, batch.id).to_json()
    (told,) = [delivery for delivery in jobs.admin.deliveries() if delivery.job_id == batch.id]
    assert (told.event, told.state, told.url) == ("batch.completed", "pending", webhook["url"])


def test_a_bad_file_fails_with_its_lines_listed(client):
    batch = submit(client, request("a"), b"{\n", request("a"))
    failed = ended(client, batch.id)
    assert failed.status == "failed"
    found = [(error.code, error.line) for error in failed.errors.data]
    assert found == [("invalid_json_line", 2), ("duplicate_custom_id", 3)]


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        ({"endpoint": "/v1/moderations"}, "endpoint"),
        ({"completion_window": "soon"}, "completion_window"),
        ({"metadata": {"a": 1}}, "metadata.a"),
        ({"extra_body": {"tenant": "other"}}, "tenant"),
        ({"output_expires_after": {"anchor": "created_at", "seconds": 1}}, "output_expires_after.seconds"),
        ({"extra_body": {"webhook": {"url": "ftp://backend.example"}}}, "webhook.url"),
        (
            {"extra_body": {"webhook": {"url": "https://backend.example", "secret": "short"}}},
            "webhook.secret",
        ),
    ],
    ids=["endpoint", "window", "metadata", "unknown", "expiry", "webhook", "secret"],
)
def test_what_a_batch_can_not_be_is_refused_by_name(client, asked, param):
    with pytest.raises(openai.BadRequestError) as refused:
        submit(client, request("a"), **asked)
    assert refused.value.param == param


def test_a_batch_of_no_file_or_of_answers_is_refused(client):
    given = {"endpoint": URL, "completion_window": "24h"}
    with pytest.raises(openai.NotFoundError):
        client.batches.create(input_file_id="file-01jd0000000000000000000000", **given)
    other = client.files.create(file=("in", b"x"), purpose="user_data")
    with pytest.raises(openai.BadRequestError, match="purpose"):
        client.batches.create(input_file_id=other.id, **given)
    client.files.delete(other.id)
    for ask in (client.batches.retrieve, client.batches.cancel):
        with pytest.raises(openai.NotFoundError):
            ask("batch_01jd0000000000000000000000")
