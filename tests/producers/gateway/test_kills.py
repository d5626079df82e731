"""Streams over HTTP while gateway, worker, client and Redis are killed with -9, in turn and all at once."""

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from headrace import Client

from ...support import paced_engine, stream_reader
from ...support.processes import ANY_HOST, Restartable
from ...support.waiting import WAIT_S, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.serial, pytest.mark.timeout(600)]

PROMPT, SEED, TOKENS = "A dictionary is", 1, 900
MESSAGES = [{"role": "user", "content": PROMPT}]
COMMON = {"model": "demo", "seed": SEED, "ignore_eos": True, "stream": True}
ASKED: dict[str, dict[str, object]] = {
    "/v1/chat/completions": COMMON | {"messages": MESSAGES, "max_tokens": TOKENS},
    "/v1/responses": COMMON | {"input": PROMPT, "max_output_tokens": TOKENS},
    "/v1/jobs": COMMON | {"prompt": PROMPT, "max_tokens": TOKENS},
}
STEP_S, WAITING_STEP_S = "0.02", "0.5"
"""The least that a step takes, usually and while something starts again: no stream may end meanwhile."""
AGAIN, FURTHER = 3, 25
"""With how many events a stream is there again, and how many more it goes on until the next kill."""


def piece(path: str, data: str) -> str:
    """The text of an event."""
    event = {} if data == "[DONE]" else json.loads(data)
    match path:
        case "/v1/chat/completions":
            return "".join(choice["delta"].get("content") or "" for choice in event.get("choices", ()))
        case "/v1/responses":
            return event["delta"] if event["type"] == "response.output_text.delta" else ""
        case _:
            return event.get("text", "") if event["type"] == "chunk" else ""


@dataclass(frozen=True)
class Stream:
    """What a client has of one stream."""

    path: str
    file: Path

    @property
    def events(self) -> list[tuple[str, str]]:
        lines = self.file.read_bytes().splitlines() if self.file.exists() else []
        return [tuple(json.loads(line)) for line in lines]

    @property
    def text(self) -> str:
        return "".join(piece(self.path, data) for _, data in self.events)


@contextmanager
def processes(folder: Path, redis_url: str, port: int) -> Iterator[dict[str, list[Restartable]]]:
    """A gateway, a worker that takes its time, and a client for each stream, by what they are called."""
    pace = folder / "step_s"
    pace.write_text(WAITING_STEP_S)
    environment = {"OMP_NUM_THREADS": "1", paced_engine.VARIABLE: str(pace), "HEADRACE_REDIS_URL": redis_url}
    flags = ("--model", "demo", "--device", "cpu", "--dtype", "float32", "--threads", "1", "--lease-s", "2")
    with ExitStack() as stack:

        def start(name: str, *command: str) -> Restartable:
            started = Restartable(*command, log=folder / f"{name}.log", **environment)
            stack.callback(started.kill)
            return started

        yield {
            "gateway": [start("gateway", "-m", "headrace.cli", "gateway", "--port", str(port), "--no-auth")],
            "worker": [start("worker", ANY_HOST, paced_engine.__file__, "--redis", redis_url, *flags)],
            "client": [
                start(
                    f"client-{number}",
                    stream_reader.__file__,
                    f"http://127.0.0.1:{port}",
                    path,
                    f"key-{number}",
                    json.dumps(body),
                    str(folder / f"events-{number}"),
                )
                for number, (path, body) in enumerate(ASKED.items())
            ],
        }


def test_what_clients_have_is_byte_for_byte_the_same_whatever_is_killed(own_redis, free_port, tmp_path):
    with processes(tmp_path, own_redis.url, free_port) as running:
        streams = [Stream(path, tmp_path / f"events-{number}") for number, path in enumerate(ASKED)]
        pace = tmp_path / "step_s"

        def come(events: int) -> None:
            """Wait until each stream has come this much further, and none has ended."""
            before = [len(stream.events) for stream in streams]
            wait_until(lambda: all(len(s.events) >= n + events for s, n in zip(streams, before, strict=True)))
            assert not any(client.ended for client in running["client"])

        for victims in ("gateway", "worker", "client", "redis", "gateway worker client redis"):
            come(AGAIN)
            pace.write_text(STEP_S)
            come(FURTHER)
            pace.write_text(WAITING_STEP_S)
            killed = [each for name in victims.split() for each in running.get(name, [])]
            for process in killed:
                process.kill()
            if "redis" in victims:
                own_redis.kill()
                own_redis.start()
            for process in killed:
                process.start()
        pace.unlink()
        for client in running["client"]:
            assert client.wait() == 0
        options = {"model": "demo", "seed": SEED, "max_tokens": TOKENS, "ignore_eos": True}
        with Client(own_redis.url) as client:
            chat = client.enqueue(messages=MESSAGES, **options).result(timeout_s=WAIT_S).text
            plain = client.enqueue(PROMPT, **options).result(timeout_s=WAIT_S).text
    for stream in streams:
        assert stream.text == (plain if stream.path == "/v1/jobs" else chat)
        ids = [event_id for event_id, data in stream.events if data != "[DONE]"]
        assert len(set(ids)) == len(ids)
