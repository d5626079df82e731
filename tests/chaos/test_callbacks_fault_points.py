"""kill -9 of `headrace callbacks` between every two steps: nothing is lost, and nothing is done twice unseen.

One process after the other dies at its point, with fresh work each time; the last one lives and finishes what
they left. What may happen twice then is only what was given away right before a kill: a request that the
receiver saw, a message that Celery's broker has, while nobody could note it.
"""

import json
import signal
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from celery.backends.redis import ResultConsumer
from celery.contrib.testing.worker import start_worker
from standardwebhooks import Webhook

from headrace import Client
from headrace.producers.celery.app import make_app
from headrace.producers.celery.task import generate
from headrace.schemas import keys
from headrace.schemas.redis.connection import connect
from headrace.schemas.settings.celery import CelerySettings
from headrace.workers.settings import CallbacksSettings

from ..workers.callbacks.conftest import Received, Receiver, logging_left_alone
from .callbacks_points import Point, expected, known_scripts
from .callbacks_world import SECRET, TAG, Made, World
from .nursery import ForkedEngine, Nursery

KINDS = ("hook", "link", "chain", "linked", "chord", "failing", "broken", "revoked")
KIND_OF = {"last": "chord", "fine": "broken"}
CELERY = {
    "result_expires": 3600,
    "broker_connection_timeout": 0.5,  # with the next line: a chord's claim outlives a kill by 6 s, not by 20
    "task_publish_retry_policy": {"max_retries": 1, "interval_start": 0, "interval_step": 0},
}

pytestmark = [
    pytest.mark.leaves_jobs,
    pytest.mark.filterwarnings("ignore:Call to deprecated setex"),  # Celery's result backend, with redis-py 8
]


@dataclass
class Scene:
    """One world, and the processes that follow each other in it.

    Attributes:
        kills: when each process had died.
        doubts: the points of those that died with something given to Celery's broker, and not noted.
    """

    redis_url: str
    world: World
    receiver: Receiver
    nursery: Nursery
    folder: Path
    kills: list[float] = field(default_factory=list)
    doubts: list[Point] = field(default_factory=list)
    rounds: int = 0
    _told: set[tuple[str, str]] = field(default_factory=set)
    _looked_at: int = 0
    _done: set[int] = field(default_factory=set)

    def record(self) -> list[Point]:
        """All kinds of work with a process that lives, and the points that it passes, in order."""
        passages = self.folder / "passages.json"
        with self._process(record=str(passages)) as process:
            self._let_it_live(process)
        return [Point(**fields) for fields in json.loads(passages.read_text())]

    def strike(self, point: Point) -> None:
        """Work that leads a process to its point, where it dies."""
        with self._process(point=asdict(point)) as process:
            made = self._make(kinds_for(point))
            self._await(lambda: process.ended() or all(map(self._is_done, made)), process)
            with suppress(ProcessLookupError):  # it may die just now
                process.ended() or process.signal(signal.SIGTERM)  # the point is on the way out
            status = process.wait()
        self.kills.append(time.monotonic())
        assert status == -signal.SIGKILL, f"it never passed {point}: {self.log}"
        if self._in_doubt.read_bytes() == b"\1":
            self.doubts.append(point)

    def settle(self) -> None:
        """A process that lives does what is left, and all kinds of work besides."""
        with self._process() as process:
            self._let_it_live(process)

    def _let_it_live(self, process: ForkedEngine) -> None:
        self._make(KINDS)
        self._await(lambda: self.world.is_quiet and all(map(self._is_done, self.world.made)), process)
        process.signal(signal.SIGTERM)
        assert process.wait() == 0, self.log

    def whole_requests(self) -> list[Received]:
        """What the receiver could read to its end before its sender was killed."""
        return [request for request in list(self.receiver.received) if is_whole(request)]

    @property
    def _in_doubt(self) -> Path:
        return self.folder / "in_doubt"

    @property
    def log(self) -> str:
        return (self.folder / "callbacks.log").read_text()[-3000:]

    def _make(self, kinds: tuple[str, ...]) -> list[Made]:
        self.rounds += 1
        return self.world.make(kinds, self.rounds)

    def _is_done(self, made: Made) -> bool:
        """Asked often, beside the receiver: each request is read once, and what is done stays done."""
        if id(made) not in self._done and self.world.is_done(made, self._received()):
            self._done.add(id(made))
        return id(made) in self._done

    def _received(self) -> set[tuple[str, str]]:
        """Of which jobs and events the receiver was told."""
        new = self.receiver.received[self._looked_at :]
        self._looked_at += len(new)
        events = [request.event for request in new if is_whole(request)]
        self._told |= {(event["data"]["job_id"], event["type"]) for event in events}
        return self._told

    def _await(self, what: Callable[[], bool], process: ForkedEngine, timeout_s: float = 60.0) -> None:
        give_up_at = time.monotonic() + timeout_s
        while not what():
            assert time.monotonic() < give_up_at, f"not within {timeout_s} s: {self._left()}; {self.log}"
            process.ended(0.01)

    def _left(self) -> list[Made]:
        return [made for made in self.world.made if not self._is_done(made)]

    @contextmanager
    def _process(self, **orders: Any) -> Iterator[ForkedEngine]:
        settings = CallbacksSettings(
            redis_url=self.redis_url,
            relay_s=0.5,
            webhook_allow="127.0.0.1",
            webhook_timeout_s=2.0,
            webhook_concurrency=16,  # what is claimed at once must be settled within the lease, of 5 s
        )
        self._in_doubt.write_bytes(b"\0")
        orders = {"point": None, "record": None, "celery": CELERY, "in_doubt": str(self._in_doubt)} | orders
        process = self.nursery.start(settings.model_dump_json(), self.folder / "callbacks.log", **orders)
        try:
            yield process
        except BaseException:
            with suppress(ProcessLookupError):
                process.signal(signal.SIGKILL)
            raise


def is_whole(request: Received) -> bool:
    """Whether its sender lived to its end."""
    return len(request.body) == int(request.headers["content-length"])


def kinds_for(point: Point) -> tuple[str, ...]:
    """The work that passes the point; for other threads none that the relay could be in the middle of."""
    who, _, kind = point.where.partition(" ")
    kind = kind.partition(" ")[0]
    if who == "complete" and kind == "any":
        return ("link", "chain")
    if who == "complete":
        return (KIND_OF.get(kind, kind),)
    return ("hook", "link", "chain") if point.relays else ("hook",)


@pytest.fixture(scope="module")
def callbacks_nursery(no_process_left: None) -> Iterator[Nursery]:
    opened = Nursery("tests.chaos.callbacks_process")
    yield opened
    opened.close()


@pytest.fixture
def scene(redis_url, redis, callbacks_nursery, tmp_path, monkeypatch) -> Iterator[Scene]:
    """A world that runs, on an empty Redis."""
    monkeypatch.setenv("HEADRACE_REDIS_URL", redis_url)
    # Results are polled here; what subscribed to them would outlive the test.
    monkeypatch.setattr(ResultConsumer, "consume_from", lambda consumer, task_id: None)
    redis.hset(keys.models(), "demo", "{}")
    for source in known_scripts():
        redis.script_load(source)
    app = make_app(CelerySettings.load())
    app.conf.update(CELERY, result_backend_thread_safe=True)
    app.set_current()
    receiver, stopping = Receiver(), threading.Event()
    receiver.server.socket.listen(128)  # with its own 5, Linux lets the sixth at once wait for a second
    with connect(redis_url) as engine_redis, Client(redis_url) as client:
        world = World(engine_redis, client, app, receiver.url)
        engine = threading.Thread(target=world.work, args=(stopping,), daemon=True)
        engine.start()
        with logging_left_alone(), start_worker(app, perform_ping_check=False, pool="solo"):
            yield Scene(redis_url, world, receiver, callbacks_nursery, tmp_path)
            stopping.set()
            engine.join()
    receiver.close()
    generate.client().close()
    generate._connected = None
    app.backend.client.connection_pool.disconnect()
    app.close()


@pytest.mark.parametrize(
    "every",
    [
        pytest.param(False, id="every third distinct"),
        pytest.param(True, id="all", marks=[pytest.mark.slow, pytest.mark.timeout(600)]),
    ],
)
def test_nothing_is_lost_when_callbacks_are_killed_at_any_step(scene, redis, every):
    passed = scene.record()
    assert expected() <= {point.where for point in passed}, "a step that no work leads to"
    points = passed if every else [point for point in passed if point.is_distinct][::3]
    for point in sorted(points, key=lambda point: point.relays):
        scene.strike(point)
    scene.settle()
    each_event_arrived_under_one_id(scene)
    deliveries = [redis.hget(key, "state") for key in redis.scan_iter(f"{TAG.base}:delivery:*")]
    assert Counter(deliveries) == {b"delivered": len({request.id for request in scene.receiver.received})}
    everything_followed(scene)
    assert not list(redis.scan_iter(f"{TAG.base}:waiting:*"))


def each_event_arrived_under_one_id(scene: Scene) -> None:
    """Signed; and a second time only when a kill came between the two."""
    ids: dict[tuple[str, str], set[str]] = defaultdict(set)
    arrivals: dict[str, list[float]] = defaultdict(list)
    for request in scene.whole_requests():
        event = Webhook(SECRET).verify(request.body, request.headers)
        ids[event["data"]["job_id"], event["type"]].add(request.id)
        arrivals[request.id].append(request.at)
    assert set(ids) == {told for made in scene.world.made for told in made.told}
    assert Counter(map(len, ids.values())) == {1: len(ids)}
    for webhook_id, times in arrivals.items():
        for first, second in pairwise(times):
            assert any(first <= at <= second for at in scene.kills), f"{webhook_id} came twice"
    print(f"{len(scene.kills)} kills, {len(ids)} events, {sum(map(len, arrivals.values()))} arrivals")


def everything_followed(scene: Scene) -> None:
    """Every task ended as it should; each generation ran once, each ordinary task once unless given again."""
    runs: dict[str, list[str]] = defaultdict(list)
    for what, task_id in scene.world.runs:
        runs[what].append(task_id)
    for made in scene.world.made:
        if made.result is not None:
            found = made.result.result
            text = found["text"] if isinstance(found, dict) else found
            assert made.expected in {text, type(found).__name__}
        assert set(made.follows) <= set(runs)
    assert set(runs) == {what for made in scene.world.made for what in made.follows}
    assert (
        Counter({prompt: 1 for made in scene.world.made for prompt in made.generated}) == scene.world.answered
    )
    again = {what: ids for what, ids in runs.items() if len(ids) > 1}
    assert all(len(set(ids)) == 1 for ids in again.values()), f"under another id: {again}"
    assert sum(len(ids) - 1 for ids in again.values()) <= len(scene.doubts), f"{again}: {scene.doubts}"
    print(f"ordinary tasks: {len(runs)}, run again: {len(again)}, doubts: {len(scene.doubts)}")
