"""Webhooks of batches and of responses in the background, while what makes and sends them is killed.

The receiver holds the first request, so that its sender dies while nobody knows what became of it.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import openai
import pytest

from headrace import Client

from ...support import paced_engine
from ...support.processes import ANY_HOST, Restartable
from ...support.waiting import WAIT_S, wait_until
from ...workers.callbacks.conftest import Received, Receiver

pytestmark = [pytest.mark.serial, pytest.mark.slow, pytest.mark.timeout(600)]

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
LINES = 40
URL = "/v1/completions"
PROMPT = "A dictionary is"
ASKED = {"seed": 1, "ignore_eos": True}


@contextmanager
def processes(folder: Path, redis_url: str, port: int) -> Iterator[dict[str, Restartable]]:
    """A gateway, a worker whose steps take their time while `step_s` says so, and callbacks."""
    environment = {
        "OMP_NUM_THREADS": "1",
        paced_engine.VARIABLE: str(folder / "step_s"),
        "HEADRACE_REDIS_URL": redis_url,
        "HEADRACE_FILES_URL": (folder / "files").as_uri(),
        "HEADRACE_BATCH_LEASE_S": "2",
        "HEADRACE_WEBHOOK_ALLOW": "127.0.0.1",
        "HEADRACE_WEBHOOK_TIMEOUT_S": "3",
    }
    flags = ("--model", "demo", "--device", "cpu", "--dtype", "float32", "--threads", "1", "--lease-s", "2")
    commands = {
        "gateway": ("-m", "headrace.cli", "gateway", "--port", str(port), "--no-auth"),
        "worker": (ANY_HOST, paced_engine.__file__, "--redis", redis_url, *flags),
        "callbacks": ("-m", "headrace.cli", "callbacks"),
    }
    with ExitStack() as stack:
        started = {}
        for name, command in commands.items():
            started[name] = Restartable(*command, log=folder / f"{name}.log", **environment)
            stack.callback(started[name].kill)
        yield started


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.close()


@pytest.fixture
def running(own_redis, free_port, tmp_path) -> Iterator[dict[str, Restartable]]:
    with processes(tmp_path, own_redis.url, free_port) as running:
        yield running


@pytest.fixture
def client(free_port) -> Iterator[openai.OpenAI]:
    base_url = f"http://127.0.0.1:{free_port}/v1"
    with openai.OpenAI(base_url=base_url, api_key="-", max_retries=0, webhook_secret=SECRET) as client:
        yield client


def asked(call: Callable[..., object], *arguments: object) -> object:
    """The answer, or None while the gateway or Redis is away."""
    with suppress(openai.APIError):
        return call(*arguments)
    return None


def restart(running: dict[str, Restartable], *names: str) -> None:
    for name in names:
        running[name].kill()
    for name in names:
        running[name].start()


def delivered_once_more(receiver: Receiver, redis, running: dict[str, Restartable]) -> list[Received]:
    """What the receiver got, once its first request was held until the sender and Redis were dead."""
    wait_until(lambda: receiver.received)
    running["callbacks"].kill()
    running["gateway"].kill()
    redis.kill()
    receiver.answering.set()
    redis.start()
    running["gateway"].start()
    running["callbacks"].start()
    with Client(redis.url) as client:
        wait_until(lambda: {each.state for each in client.admin.deliveries()} == {"delivered"})
        # What was delivered stays so: of a later job alone the next process tells.
        restart(running, "callbacks")
        before = len(receiver.received)
        other = client.enqueue(PROMPT, model="demo", max_tokens=1, webhook={"url": receiver.url})
        wait_until(lambda: len(receiver.received) > before)
        other.result(timeout_s=WAIT_S)
    *ours, last = receiver.received
    assert json.loads(last.body)["data"]["job_id"] == other.id
    assert len(ours) >= 2
    assert len({request.id for request in ours}) == 1
    return ours


def test_a_batchs_webhook_is_delivered_under_one_id_whatever_is_killed_around_it(
    own_redis, running, client, receiver, tmp_path
):
    receiver.answering.clear()
    (tmp_path / "step_s").write_text("0.5")
    wait_until(lambda: (models := asked(client.models.list)) and models.data)
    body = {"model": "demo", "max_tokens": 8, **ASKED}
    lines = [
        {"custom_id": f"{n}", "method": "POST", "url": URL, "body": body | {"prompt": f"Line {n}"}}
        for n in range(LINES)
    ]
    file = client.files.create(file=("in", "\n".join(map(json.dumps, lines)).encode()), purpose="batch")
    webhook = {"url": receiver.url, "secret": SECRET}
    batch = client.batches.create(
        input_file_id=file.id, endpoint=URL, completion_window="24h", extra_body={"webhook": webhook}
    )

    def status() -> str | None:
        return (now := asked(client.batches.retrieve, batch.id)) and now.status

    wait_until(lambda: status() == "in_progress")
    restart(running, "gateway", "worker", "callbacks")
    wait_until(status)
    (tmp_path / "step_s").unlink()
    for request in delivered_once_more(receiver, own_redis, running):
        event = client.webhooks.unwrap(request.body, request.headers)
        assert (event.type, event.data.id) == ("batch.completed", batch.id)
    wait_until(lambda: status() == "completed")
    done = client.batches.retrieve(batch.id)
    assert (done.request_counts.completed, done.request_counts.failed) == (LINES, 0)
    answers = client.files.content(done.output_file_id).text.splitlines()
    assert sorted(int(json.loads(each)["custom_id"]) for each in answers) == [*range(LINES)]


def test_a_response_in_the_background_tells_its_end_under_one_id_whatever_is_killed_before(
    own_redis, running, client, receiver, tmp_path
):
    wait_until(lambda: (models := asked(client.models.list)) and models.data)
    whole = client.responses.create(model="demo", input=PROMPT, max_output_tokens=300, extra_body=ASKED)
    text = whole.output_text
    ends = range(len(text) - 12, len(text) // 2, -1)
    stop = next(text[at : at + 12] for at in ends if text.find(text[at : at + 12]) == at)
    receiver.answering.clear()
    (tmp_path / "step_s").write_text("0.05")
    webhook = {"url": receiver.url, "secret": SECRET}
    begun = client.responses.create(
        model="demo",
        input=PROMPT,
        background=True,
        max_output_tokens=300,
        extra_body={**ASKED, "stop": [stop], "webhook": webhook},
    )
    with Client(own_redis.url) as jobs:
        job = jobs.job(begun.id.removeprefix("resp_"))
        wait_until(lambda: job.status().offset > 5)
    restart(running, "worker", "callbacks")
    (tmp_path / "step_s").unlink()
    for request in delivered_once_more(receiver, own_redis, running):
        event = client.webhooks.unwrap(request.body, request.headers)
        assert (event.type, event.data.id) == ("response.completed", begun.id)
    done = wait_until(lambda: asked(client.responses.retrieve, begun.id))
    assert (done.status, done.output_text) == ("completed", text[: text.find(stop)])
