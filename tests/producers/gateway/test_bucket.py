"""Files and batches in an S3-compatible bucket; the store is moto's server, which stands for S3."""

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import openai
import pytest
from redis import Redis

from headrace.producers.batches import parts, runner
from headrace.schemas.keys import Tag

from ...chaos.proxy import Proxy
from ...support.bucket import BUCKET, Bucket, bucket
from ...support.gateways import gateway
from ...support.waiting import wait_until
from ..conftest import MODEL, ScriptedWorker, work

pytestmark = [pytest.mark.slow, pytest.mark.serial, pytest.mark.xdist_group("gateway")]

URL = "/v1/completions"
LARGE = bytes(range(256)) * 70_000
"""17.9 MB: four parts of an upload."""


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Iterator[Bucket]:
    with bucket(tmp_path_factory.mktemp("bucket")) as store:
        yield store


@pytest.fixture
def serve(redis_url: str, monkeypatch) -> Callable[..., object]:
    """Starts a gateway whose bucket these variables lead to, and gives OpenAI's client."""

    @contextmanager
    def start(environment: dict[str, str], place: str = f"{BUCKET}/headrace") -> Iterator[openai.OpenAI]:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        with (
            gateway(redis_url, files_url=f"s3://{place}") as running,
            openai.OpenAI(base_url=running.base_url, api_key="-", max_retries=0) as client,
        ):
            yield client

    return start


@pytest.fixture
def answering(redis: Redis) -> Iterator[Callable[[], None]]:
    """Lets a worker answer every job from now on."""
    worker = ScriptedWorker(redis, Tag(MODEL))
    loop = asyncio.new_event_loop()
    task = loop.create_task(work(worker))
    thread = threading.Thread(target=loop.run_until_complete, args=(asyncio.wait([task]),))
    yield thread.start
    if thread.ident is not None:
        loop.call_soon_threadsafe(task.cancel)
        thread.join()
    task.cancel()
    loop.close()


def refused(ask: Callable[..., object], *arguments: object, **given: object) -> openai.APIStatusError:
    with pytest.raises(openai.APIStatusError) as caught:
        ask(*arguments, **given)
    assert (caught.value.status_code, caught.value.code) == (503, "files_unavailable")
    return caught.value


def line(number: int) -> bytes:
    body = {"model": MODEL, "prompt": f"Line {number}", "max_tokens": 2}
    return json.dumps({"custom_id": f"{number}", "method": "POST", "url": URL, "body": body}).encode() + b"\n"


def test_a_file_is_uploaded_in_parts_downloaded_whole_and_deleted(store, serve):
    with serve(store.environment()) as client:
        file = client.files.create(file=("in", LARGE), purpose="user_data")
        assert file.bytes == len(LARGE)
        assert store.objects()[f"headrace/files/{file.id}"] == (len(LARGE), 4)
        assert client.files.content(file.id).content == LARGE
        rest = client.files.content(file.id, extra_headers={"range": "bytes=17000000-"})
        assert rest.content == LARGE[17_000_000:]
        client.files.delete(file.id)
        assert store.objects() == {}


@pytest.mark.parametrize(
    ("wrong", "place", "reason"),
    [
        ({"AWS_SECRET_ACCESS_KEY": "another-secret"}, f"{BUCKET}/headrace", "refuses these credentials"),
        ({"AWS_ACCESS_KEY_ID": "AKIANOBODY"}, f"{BUCKET}/headrace", "refuses these credentials"),
        ({}, "no-such-bucket/headrace", "the bucket of files_url isn't there"),
    ],
    ids=["secret", "key", "bucket"],
)
def test_wrong_credentials_and_a_missing_bucket_are_told_to_the_operator_and_never_shown(
    store, serve, capfd, wrong, place, reason
):
    given = store.environment() | wrong
    with serve(given, place) as client:
        for content in (b"x", LARGE):
            told = refused(client.files.create, file=("in", content), purpose="batch").response.text
            assert "the file store is unavailable" in told
            logged = "".join(capfd.readouterr())
            assert reason in logged
            for secret in (given["AWS_ACCESS_KEY_ID"], given["AWS_SECRET_ACCESS_KEY"], store.secret):
                assert secret not in told + logged
            assert given["AWS_ENDPOINT"] not in told
        assert client.files.list().data == []
    assert store.objects() == {}


def test_a_batch_whose_store_is_away_for_a_while_is_answered_line_by_line_once(
    store, serve, answering, monkeypatch, caplog
):
    monkeypatch.setattr(parts, "FIRST_S", 0.05)
    monkeypatch.setattr(runner, "RETRY_S", 0.5)
    proxy = Proxy(store.port)
    try:
        with serve(store.environment(proxy.port)) as client:
            file = client.files.create(file=("in", b"".join(map(line, range(200)))), purpose="batch")
            batch = client.batches.create(input_file_id=file.id, endpoint=URL, completion_window="24h")
            wait_until(lambda: client.batches.retrieve(batch.id).status == "in_progress")
            proxy.break_up()
            answering()
            refused(client.files.create, file=("in", b"x"), purpose="batch")
            refused(client.files.content, file.id)
            wait_until(lambda: f"{batch.id} can't continue now" in caplog.text)
            assert client.batches.retrieve(batch.id).status == "in_progress"
            proxy.heal()
            wait_until(lambda: client.batches.retrieve(batch.id).status == "completed")
            done = client.batches.retrieve(batch.id)
            assert (done.request_counts.completed, done.request_counts.failed) == (200, 0)
            lines = client.files.content(done.output_file_id).text.splitlines()
            assert sorted(int(json.loads(each)["custom_id"]) for each in lines) == [*range(200)]
            for each in (file.id, done.output_file_id):
                assert f"headrace/files/{each}" in store.objects()
                client.files.delete(each)
    finally:
        proxy.close()
