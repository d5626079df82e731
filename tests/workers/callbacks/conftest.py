"""Receivers of webhooks, and jobs that tell them."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from celery import Celery
from celery.signals import setup_logging
from prometheus_client import CollectorRegistry
from redis import Redis

from headrace.schemas.celery_task import read_headers, sign_part, task_job_id
from headrace.schemas.events import End, Output, chunk_payload
from headrace.schemas.ids import new_job_id
from headrace.schemas.job import Job
from headrace.schemas.keys import Tag, celery_key, models
from headrace.schemas.scripts import ClaimRequest, Segment, claim, enqueue, finish, run
from headrace.schemas.settings.queue import QueueSettings
from headrace.schemas.wire import WireJob
from headrace.workers.callbacks.metrics import CallbackMetrics
from headrace.workers.callbacks.service import Service
from headrace.workers.settings import CallbacksSettings

TAG = Tag("demo")
WAIT_S = 30.0
DAY = 86_400
KEY = b"a key of the tests"


@contextmanager
def logging_left_alone() -> Iterator[None]:
    """A Celery worker that starts in here sets no level that later tests would keep."""
    leave_alone = lambda **_: None  # noqa: E731
    setup_logging.connect(leave_alone)
    try:
        yield
    finally:
        setup_logging.disconnect(leave_alone)


@dataclass(frozen=True, slots=True)
class Received:
    """One request."""

    path: str
    headers: dict[str, str]
    body: bytes
    at: float

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def event(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.body)
        return found


@dataclass
class Receiver:
    """A webhook receiver on loopback.

    Attributes:
        status: what it answers.
        answering: while it is not set, whoever sends waits.
        received: everything, in order of arrival.
    """

    status: int = 204
    answering: threading.Event = field(default_factory=threading.Event)
    received: list[Received] = field(default_factory=list)
    server: ThreadingHTTPServer = field(init=False)

    def __post_init__(self) -> None:
        receiver = self
        receiver.answering.set()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                headers = {name.lower(): value for name, value in self.headers.items()}
                receiver.received.append(Received(self.path, headers, body, time.monotonic()))
                receiver.answering.wait(WAIT_S)
                self.send_response(receiver.status)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                return

        class Server(ThreadingHTTPServer):
            request_queue_size = 128  # a sixth connection at once would wait a second otherwise

        self.server = Server(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}/hook"

    def ids(self) -> list[str]:
        return [request.id for request in self.received]

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A receiver that answers 204."""
    found = Receiver()
    yield found
    found.close()


@dataclass
class Jobs:
    """Makes jobs and ends them, as a worker would."""

    redis: Redis

    def enqueue(self, **fields: object) -> str:
        """A job; with `celery`, a message that is not signed yet, as the task `generate` would."""
        part, job_id = fields.pop("celery", None), new_job_id("demo")
        job = Job.make(**{"model": "demo", "prompt": "x", **fields})
        if isinstance(part, str):
            self.redis.set(celery_key(), KEY)
            job_id = task_job_id(read_headers(part), "demo", 1)
            job = WireJob.of(job, celery=sign_part(part, job_id, KEY))
        return run(self.redis, enqueue(TAG, job_id, job, QueueSettings(retention_s=600)))

    def end_all(self, state: str = "succeeded", finish_reason: str = "stop") -> None:
        """Claim whatever waits, and end it."""
        request = ClaimRequest("w", "n", 60_000, 10**6, 1000)
        while jobs := run(self.redis, claim(TAG, request)).jobs:
            for job in jobs:
                text = f"answer to {json.loads(job.spec).get('prompt')}"
                end = End(
                    offset=2, end=state, finish_reason=finish_reason if state == "succeeded" else "cancelled"
                )
                payload = chunk_payload(2, [text, ""], [1, 2], None)
                segment = Segment(job.job_id, job.fence, 0, 2, payload)
                output = Output(text=text, token_ids=(1, 2), finish_reason=end.finish_reason)
                run(self.redis, finish(TAG, segment, end, output))

    def ended(self, **fields: object) -> str:
        """One job, enqueued and ended."""
        job_id = self.enqueue(**fields)
        self.end_all()
        return job_id


@pytest.fixture
def jobs(redis: Redis) -> Jobs:
    """Jobs of a model that is served."""
    redis.hset(models(), "demo", "{}")
    return Jobs(redis)


@pytest.fixture
def start_service(redis_url) -> Iterator[Callable[..., Service]]:
    """Start the threads of `headrace callbacks`."""
    started: list[Service] = []

    def start(
        app: Celery | None = None, registry: CollectorRegistry | None = None, **settings: object
    ) -> Service:
        fields: dict[str, Any] = {
            "redis_url": redis_url,
            "webhook_allow": "127.0.0.1",
            "webhook_timeout_s": 2.0,
            "webhook_retention_s": 30 * DAY,
            **settings,
        }
        failed = lambda: pytest.fail("a thread failed")  # noqa: E731
        app = app or Celery("none", broker="memory://", set_as_current=False)
        service = Service(CallbacksSettings(**fields), app, CallbackMetrics(registry), failed)
        service.start()
        started.append(service)
        return service

    yield start
    for service in started:
        service.stop()
