"""`/v1/files`, asked by OpenAI's own client and by others that know it less well."""

import openai
import pytest

from ...support.gateways import gateway

pytestmark = [pytest.mark.serial, pytest.mark.xdist_group("gateway")]


@pytest.fixture(scope="module")
def client(shared_gateway):
    with openai.OpenAI(
        base_url=shared_gateway.base_url, api_key="-", max_retries=0, _strict_response_validation=True
    ) as client:
        yield client


def test_a_file_is_uploaded_found_listed_downloaded_and_deleted(client):
    content = b"x" * 3_000_000 + b"\r\n--y\r\n"
    expiry = {"anchor": "created_at", "seconds": 3600}
    file = client.files.create(file=("in/f\u00fcr.jsonl", content), purpose="user_data", expires_after=expiry)
    assert (file.bytes, file.filename, file.status) == (len(content), "f\u00fcr.jsonl", "processed")
    assert file.expires_at - file.created_at == 3600
    assert client.files.retrieve(file.id) == file
    assert list(client.files.list(purpose="user_data", limit=1)) == [file]
    answer = client.files.content(file.id)
    assert answer.content == content
    assert answer.response.headers["content-length"] == str(len(content))
    assert answer.response.headers["content-disposition"] == "attachment; filename*=UTF-8''f%C3%BCr.jsonl"
    assert client.files.delete(file.id).deleted
    for ask in (client.files.retrieve, client.files.content, client.files.delete):
        with pytest.raises(openai.NotFoundError):
            ask(file.id)


@pytest.mark.parametrize(
    ("asked", "status", "content"),
    [
        ("bytes=2-4", 206, b"cde"),
        ("bytes=7-", 206, b"hij"),
        ("bytes=8-99", 206, b"ij"),
        ("bytes=-3", 206, b"hij"),
        ("bytes=-99", 206, b"abcdefghij"),
        ("bytes=4-2", 200, b"abcdefghij"),
        ("bytes=0-1,3-4", 200, b"abcdefghij"),
        ("lines=1-2", 200, b"abcdefghij"),
        ("bytes=10-", 416, None),
        ("bytes=-0", 416, None),
    ],
)
def test_a_download_that_broke_off_goes_on_with_the_part_that_is_missing(http, asked, status, content):
    form = {"files": {"file": ("in", b"abcdefghij")}, "data": {"purpose": "user_data"}}
    url = f"/v1/files/{http.post('/v1/files', **form).json()['id']}"
    answer = http.get(f"{url}/content", headers={"range": asked})
    assert answer.status_code == status
    if content is None:
        assert answer.headers["content-range"] == "bytes */10"
        assert answer.json()["error"]["code"] == "range_not_satisfiable"
    else:
        assert (answer.content, answer.headers["content-length"]) == (content, f"{len(content)}")
        first = 10 - len(content) if "=-" in asked else answer.content[0] - ord("a")
        said = f"bytes {first}-{first + len(content) - 1}/10" if status == 206 else None
        assert answer.headers.get("content-range") == said
    whole = http.get(f"{url}/content", headers={"range": "bytes=2-4", "if-range": '"x"'})
    assert (whole.status_code, whole.content) == (200, b"abcdefghij")
    http.delete(url)


FILE = ("file", ("in", b"x"))


FORM_B = {"content-type": "multipart/form-data; boundary=b"}


@pytest.mark.parametrize(
    ("given", "status", "param"),
    [
        ({"json": {}}, 415, None),
        ({"files": [("purpose", (None, "batch"))]}, 400, "file"),
        ({"files": [FILE]}, 400, "purpose"),
        ({"files": [FILE, ("purpose", (None, "batch_output"))]}, 400, "purpose"),
        ({"files": [FILE, FILE, ("purpose", (None, "batch"))]}, 400, "file"),
        ({"files": [FILE, ("purpose", (None, "batch")), ("expires_after[seconds]", (None, "9"))]}, 400, None),
        ({"files": [FILE, *[(f"x{i}", (None, "y")) for i in range(20)]]}, 400, None),
        ({"files": [FILE, ("x", (None, "y" * 5000))]}, 400, None),
        ({"content": b"--b\r\nX: " + b"y" * 5000, "headers": FORM_B}, 400, None),
        ({"content": b"--b\r\n", "headers": FORM_B}, 400, None),
        ({"content": b"nothing", "headers": FORM_B}, 400, None),
    ],
    ids=[
        "json",
        "no file",
        "no purpose",
        "ours",
        "two",
        "expiry",
        "parts",
        "long",
        "header",
        "torn",
        "nothing",
    ],
)
def test_a_form_that_is_none_is_refused_and_nothing_kept(http, given, status, param):
    before = http.get("/v1/files").json()["data"]
    refused = http.post("/v1/files", **given)
    assert refused.status_code == status, refused.text
    assert param in {refused.json()["error"]["param"], None}
    assert http.get("/v1/files").json()["data"] == before


@pytest.mark.parametrize("name", ["..%2f..%2fetc%2fpasswd", "file-..", "file-%00", "%F0%9F%98%80"])
def test_what_is_no_id_is_not_found(http, name):
    for path in (f"/v1/files/{name}", f"/v1/files/{name}/content"):
        refused = http.get(path)
        assert refused.status_code == 404
        assert refused.json()["error"]["code"] in {"file_not_found", "unknown_url"}


def test_a_file_that_is_too_large_is_refused_while_it_comes(stack_redis):
    with (
        gateway(stack_redis.url, max_file_bytes=1000) as small,
        openai.OpenAI(base_url=small.base_url, api_key="-", max_retries=0) as client,
    ):
        for size in (1001, 100_000):
            with pytest.raises(openai.APIStatusError) as refused:
                client.files.create(file=("in", b"x" * size), purpose="batch")
            assert refused.value.status_code == 413
        kept = client.files.create(file=("in", b"x" * 1000), purpose="batch")
        client.files.delete(kept.id)


def test_an_upload_beyond_the_tenants_limit_is_refused_and_says_what_to_do(client, jobs):
    jobs.admin.set_tenant("default", max_stored_bytes=sum(file.bytes for file in client.files.list()) + 10)
    try:
        file = client.files.create(file=("in", b"x" * 10), purpose="user_data")
        # Its own retries would come to nothing, so it is told not to.
        with pytest.raises(openai.RateLimitError, match="delete some") as refused:
            client.with_options(max_retries=5).files.create(file=("in", b"x"), purpose="user_data")
        assert refused.value.code == "limit_reached"
        assert refused.value.response.headers["x-should-retry"] == "false"
        client.files.delete(file.id)
        client.files.delete(client.files.create(file=("in", b"x"), purpose="user_data").id)
    finally:
        jobs.admin.drop_tenant("default")
