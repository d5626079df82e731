"""One scene, played with an engine process that dies at a point, and once without."""

import asyncio
import json
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ..support.waiting import wait_until_async

if TYPE_CHECKING:
    from headrace.local.embedded_redis import EmbeddedRedis

    from .audience import Watched
    from .fault_points import Fault
    from .nursery import ForkedEngine, Nursery
    from .witness import Uninterrupted

ENDINGS = ("job.started", "job.succeeded", "job.failed", "job.cancelled", "job.expired")
WEBHOOK = {"url": "http://127.0.0.1:9/", "events": ENDINGS}
LEASE_S = 0.5
SLOTS = 3
DRAIN_TOKENS = 290


def _job(prompt: str | list[dict[str, str]] = "A dictionary is", **fields: object) -> dict[str, Any]:
    given = {"messages": prompt} if isinstance(prompt, list) else {"prompt": prompt}
    return {"model": "demo", "ignore_eos": True, "max_attempts": 20, "webhook": WEBHOOK, **given, **fields}


def _asks(question: str) -> dict[str, str]:
    return {"role": "user", "content": question}


def _ends(state: str, code: str = "") -> dict[str, Any]:
    return {"metadata": {"ends": state, "may_fail": code}}


JOBS: Sequence[dict[str, Any]] = (
    _job(max_tokens=70, temperature=0, job_class="batch"),
    _job("To open a file,", max_tokens=70, seed=1, job_class="batch", tenant="b"),
    _job("The asyncio module", max_tokens=100, seed=2, stop=["tolve", "\n\n"], tenant="b"),  # in two tokens
    _job(logit_bias={999_999: 1.0}, **_ends("failed", "invalid_job")),
    _job([_asks("What is a tuple?")], max_tokens=24, seed=3, logprobs=2),
    _job(prompt="x y " * 3000, tenant="c", **_ends("failed", "context_length")),
    _job("A generator is", max_tokens=200, seed=4, **_ends("cancelled")),
    _job("Return a new string", max_tokens=30, seed=5, stream=False, job_class="interactive"),
    _job("The with statement", max_tokens=20, seed=6, delay_s=0.2, job_class="interactive"),
    _job([_asks("What is a set?")], max_tokens=20, seed=9, delay_s=0.25, job_class="interactive"),
    _job(max_tokens=10, delay_s=60, deadline_s=0.1, **_ends("expired")),
    _job("A class is", max_tokens=50, seed=7, job_class="batch", tenant="d"),
    _job([_asks("What is a list?")], max_tokens=50, seed=8, job_class="batch"),
    _job(logit_bias={999_999: 1.0}, job_class="batch", tenant="d", **_ends("failed", "invalid_job")),
)
"""Every kind of job and of end; more than the engine has slots for."""

CANCELLED = 6
CANCEL_AT = 10


@pytest.fixture(scope="session")
def nursery(no_process_left: None) -> Iterator["Nursery"]:
    """Where engine processes come from."""
    from .nursery import Nursery

    opened = Nursery()
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What every engine process loads."""
    from ..support.models import small_model

    return small_model(tmp_path_factory.mktemp("model"))


@dataclass
class Scene:
    """`JOBS` on an empty Redis, run by one engine process after the other."""

    url: str
    model: Path
    nursery: "Nursery"
    folder: Path

    async def play(
        self,
        *,
        fault: "Fault | None" = None,
        drain_at: int | None = None,
        record: Path | None = None,
        cancel: bool = True,
        before: "Sequence[Fault]" = (),
    ) -> "tuple[int, list[Watched]]":
        """How the first engine process ended, and the jobs, all at their end; a second one finished them.

        Others have died `before`, each at its point.
        """
        from headrace import AsyncClient

        async with AsyncClient(self.url, check_model=False) as client:
            jobs = [await self._enqueue(client, number, fields) for number, fields in enumerate(JOBS)]
            audience = asyncio.gather(*(self._watch(client, job, cancel) for job in jobs))
            for each in before:
                died = await asyncio.to_thread(self._engine(fault=asdict(each)).wait)
                assert died == -signal.SIGKILL, f"it never passed {each}: {self.log.read_text()[-3000:]}"
            first = self._engine(fault=fault and asdict(fault), drain_at=drain_at, record=record)
            try:
                if fault is None and drain_at is None:
                    await asyncio.wait_for(audience, 60)
                    first.signal(signal.SIGTERM)
                status = await asyncio.to_thread(first.wait)
                second = self._engine()
                try:
                    await asyncio.wait_for(audience, 60)
                    await self._idle(client, second.worker_id)
                finally:
                    second.signal(signal.SIGTERM)
                    assert await asyncio.to_thread(second.wait) == 0, self.log.read_text()[-3000:]
            finally:
                with suppress(ProcessLookupError):
                    first.signal(signal.SIGKILL)
        return status, jobs

    @property
    def log(self) -> Path:
        """What the engine processes logged."""
        return self.folder / "engines.log"

    def _engine(self, **orders: Any) -> "ForkedEngine":
        from headrace.workers.settings import WorkerSettings

        settings = WorkerSettings(
            redis_url=self.url,
            model=str(self.model),
            dtype="float32",
            device="cpu",
            threads=1,
            num_pages=128,
            max_batch_size=SLOTS,
            lease_s=LEASE_S,
            heartbeat_s=0.1,
            flush_s=0.01,
        )
        nothing = {"fault": None, "drain_at": None, "record": None}
        orders = {name: str(order) if isinstance(order, Path) else order for name, order in orders.items()}
        return self.nursery.start(settings.model_dump_json(), self.log, **(nothing | orders))

    async def _enqueue(self, client: Any, number: int, fields: Mapping[str, Any]) -> "Watched":
        from .audience import Watched

        job = await client.enqueue(**fields)
        return Watched(job.id, number, fields, [] if fields.get("stream", True) else None)

    async def _watch(self, client: Any, watched: "Watched", cancel: bool) -> None:
        from .audience import watch

        asked: list[asyncio.Task[Any]] = []

        def cancel_it(job: "Watched") -> None:
            if cancel and job.spec == CANCELLED and not asked and len(job.tokens or ()) >= CANCEL_AT:
                asked.append(asyncio.create_task(client.job(job.job_id).cancel()))

        await watch(client, watched, cancel_it)
        await asyncio.gather(*asked)

    async def _idle(self, client: Any, worker_id: str) -> None:
        """Wait until the worker says that it runs nothing and every page is free."""
        async with asyncio.timeout(10):
            for pause_s in repeat(0.02):
                found = [worker for worker in await client.workers() if worker.id == worker_id]
                if found and _is_idle(found[0]):
                    return
                await asyncio.sleep(pause_s)


def _is_idle(worker: Any) -> bool:
    return worker.running == worker.waiting == 0 and worker.pages_free == worker.pages_total


@pytest.fixture
def scene(redis_url: str, redis: Any, model: Path, nursery: "Nursery", tmp_path: Path) -> Scene:
    """The scene on an empty Redis that knows every script."""
    _prepare(redis)
    return Scene(redis_url, model, nursery, tmp_path)


@pytest.fixture(scope="session")
def uninterrupted(
    redis_server: "EmbeddedRedis",
    model: Path,
    nursery: "Nursery",
    tmp_path_factory: pytest.TempPathFactory,
) -> "list[Uninterrupted]":
    """What every job of the scene gives when nothing happens."""
    from headrace.schemas.events import Output
    from headrace.schemas.keys import Tag
    from headrace.schemas.redis.connection import connect

    from .witness import Uninterrupted

    with connect(redis_server.url) as redis:
        redis.flushall()
        _prepare(redis)
        scene = Scene(redis_server.url, model, nursery, tmp_path_factory.mktemp("uninterrupted"))
        status, jobs = asyncio.run(scene.play(cancel=False))
        assert status == 0, scene.log.read_text()[-3000:]
        outputs = [
            Output.model_validate_json(redis.hget(Tag("demo").job(job.job_id), "result")) for job in jobs
        ]
        redis.flushall()
    return [Uninterrupted(output.token_ids, output.text) for output in outputs]


def _prepare(redis: Any) -> None:
    """Every script is known, and there is a tenant's policy for engine processes to copy."""
    from headrace.schemas import keys, scripts
    from headrace.schemas.redis.call import script
    from headrace.schemas.tenants import VERSION, TenantPolicy

    redis.hset(keys.tenants(), mapping={VERSION: 1, "z": TenantPolicy(weight=2).to_wire()})
    for path in sorted(Path(scripts.__file__).parent.glob("*.lua")):
        redis.script_load(script(path.stem).source)


@pytest.fixture
def eventually() -> Callable[..., Any]:
    """`await eventually(predicate)` waits until it is true."""
    return wait_until_async


def recorded(path: Path) -> "set[Fault]":
    """The points that an engine process has passed."""
    from .fault_points import Fault

    return {Fault(**fields) for fields in json.loads(path.read_text())}
