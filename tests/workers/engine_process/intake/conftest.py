"""An intake process with the built-in model's tokenizer, and jobs to read there."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import pytest
from redis import Redis

from headrace.local.embedded_redis import EmbeddedRedis
from headrace.schemas.keys import Tag
from headrace.schemas.redis.connection import connect
from headrace.schemas.scripts import ClaimedJob
from headrace.schemas.wire import WireJob
from headrace.workers.engine_process.intake.lanes import QUICK_S, Admission, Intake
from headrace.workers.engine_process.intake.places import Places
from headrace.workers.engine_process.intake.process import Order
from headrace.workers.engine_process.running_job import RunningJob
from headrace.workers.engine_process.text import Grammars
from headrace.workers.models import resolve_model

CONTEXT = 2048


def spec_of(**fields: Any) -> bytes:
    return WireJob.make(**{"model": "demo", "prompt": "A tuple is", **fields}).to_wire().encode()


@dataclass
class Desk:
    """An intake, and what came of the jobs sent there."""

    intake: Intake
    places: Places
    serial: Iterator[int] = field(default_factory=count)

    def put(
        self, spec: bytes | None, *, tenant: str = "a", offset: int = 0, job_id: str = "", spec_bytes: int = 0
    ) -> RunningJob:
        """Send a claimed job there; with no spec one whose record in Redis has it, `spec_bytes` long."""
        job_id, spec_bytes = job_id or f"j{next(self.serial)}", spec_bytes or len(spec or b"")
        claimed = ClaimedJob(job_id, "1.x", spec, offset, 0, None, 0, tenant=tenant, spec_bytes=spec_bytes)
        running = RunningJob.of_claim(Tag("demo"), claimed, 0.0)
        running.known = True
        self.intake.put(running, claimed)
        return running

    def taken(self) -> list[Admission]:
        return list(self.intake.ready(10**9))


def start(redis: Redis, model: str | None = None, most_s: float = 60.0, memory_mb: int = 4096) -> Desk:
    places = Places(Order(model or resolve_model("demo"), "size", QUICK_S, most_s, memory_mb))
    tokenizer, _ = places.tokenizer()
    return Desk(Intake(places, redis, tokenizer, Grammars(tokenizer), CONTEXT, most_s), places)


@pytest.fixture
def open_desk(redis: Redis) -> Iterator[Callable[..., Desk]]:
    """`open_desk(model, most_s, memory_mb)` opens one of a test's own."""
    opened: list[Desk] = []

    def open_one(*args: Any, **kwargs: Any) -> Desk:
        opened.append(start(redis, *args, **kwargs))
        return opened[-1]

    yield open_one
    for desk in opened:
        desk.intake.close()


@pytest.fixture(scope="module")
def shared_desk(redis_server: EmbeddedRedis) -> Iterator[Desk]:
    with connect(redis_server.url) as redis:
        desk = start(redis)
        yield desk
        desk.intake.close()


@pytest.fixture
def desk(shared_desk: Desk, redis: Redis) -> Desk:
    """One for the built-in model, on an empty Redis."""
    return shared_desk
