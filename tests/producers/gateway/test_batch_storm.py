"""A large batch, while each process that has to do with it is killed, and at last all at once."""

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import openai
import pytest

from ...support.processes import Restartable
from ...support.waiting import wait_until

pytestmark = [pytest.mark.serial, pytest.mark.slow, pytest.mark.timeout(1500)]

LINES = 5000
WRONG = {17, 4711}
URL = "/v1/completions"


def line(number: int) -> bytes:
    body = {"model": "demo", "prompt": f"Line {number}", "max_tokens": 2, "seed": number}
    if number in WRONG:
        body["top_p"] = 7
    return json.dumps({"custom_id": f"{number}", "method": "POST", "url": URL, "body": body}).encode() + b"\n"


@contextmanager
def processes(folder: Path, redis_url: str, port: int) -> Iterator[dict[str, Restartable]]:
    environment = {
        "OMP_NUM_THREADS": "1",
        "HEADRACE_REDIS_URL": redis_url,
        "HEADRACE_FILES_URL": (folder / "files").as_uri(),
        "HEADRACE_BATCH_LEASE_S": "2",
        "HEADRACE_LEASE_S": "2",
    }
    commands = {
        "gateway": ("gateway", "--port", str(port), "--no-auth"),
        "worker": ("worker", "--model", "demo", "--device", "cpu", "--dtype", "float32", "--threads", "1"),
        "callbacks": ("callbacks",),
    }
    with ExitStack() as stack:
        started = {}
        for name, arguments in commands.items():
            command = ("-m", "headrace.cli", *arguments)
            started[name] = Restartable(*command, log=folder / f"{name}.log", **environment)
            stack.callback(started[name].kill)
        yield started


def test_every_line_of_a_large_batch_is_answered_once_whatever_is_killed(own_redis, free_port, tmp_path):
    with (
        processes(tmp_path, own_redis.url, free_port) as running,
        openai.OpenAI(base_url=f"http://127.0.0.1:{free_port}/v1", api_key="-", max_retries=0) as client,
    ):

        def asked(call, *arguments, **more):
            with suppress(openai.APIError):
                return call(*arguments, **more)
            return None

        wait_until(lambda: (models := asked(client.models.list)) and models.data)
        content = b"".join(line(number) for number in range(LINES))
        file = client.files.create(file=("in.jsonl", content), purpose="batch")
        batch = client.batches.create(input_file_id=file.id, endpoint=URL, completion_window="24h")

        def state() -> openai.types.Batch | None:
            return asked(client.batches.retrieve, batch.id)

        plan = (500, "gateway"), (1200, "worker"), (1900, "redis"), (2600, "callbacks"), (3300, "all")
        for answered, victim in plan:
            wait_until(lambda least=answered: (now := state()) and now.request_counts.completed >= least, 600)
            victims = [name for name in running if victim in {name, "all"}]
            for name in victims:
                running[name].kill()
            if victim in {"redis", "all"}:
                own_redis.kill()
                own_redis.start()
            for name in victims:
                running[name].start()

        wait_until(lambda: (now := state()) and now.status == "completed", 900)
        done = client.batches.retrieve(batch.id)
        counts = done.request_counts
        assert (counts.total, counts.completed, counts.failed) == (LINES, LINES - len(WRONG), len(WRONG))
        for file_id, wanted in (
            (done.output_file_id, set(range(LINES)) - WRONG),
            (done.error_file_id, WRONG),
        ):
            lines = client.files.content(file_id).text.splitlines()
            assert sorted(int(json.loads(each)["custom_id"]) for each in lines) == sorted(wanted)
