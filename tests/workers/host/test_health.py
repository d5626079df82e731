"""What the metrics port says of a process's health, and to whom."""

import json
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any
from wsgiref.util import setup_testing_defaults

import pytest
from celery import Celery
from prometheus_client import CollectorRegistry, Counter

from headrace.telemetry.health import Report
from headrace.telemetry.metrics_server import pages, served
from headrace.workers.callbacks import service as callbacks
from headrace.workers.callbacks.metrics import CallbackMetrics
from headrace.workers.settings import CallbacksSettings

if TYPE_CHECKING:
    from headrace.local.embedded_redis import EmbeddedRedis


class Ailing:
    """A process that is live and not ready."""

    def live(self) -> Report:
        return Report()

    def ready(self) -> Report:
        return Report(["no model"], {"engines": [{"engine": 0}]})


@pytest.fixture
def ask() -> Callable[..., tuple[int, Any]]:
    """`ask(path)` gives the status and the body, JSON where it is."""
    registry = CollectorRegistry()
    Counter("headrace_tests", "Tests.", registry=registry)
    app = pages(registry, Ailing())

    def ask(path: str, method: str = "GET") -> tuple[int, Any]:
        environ: dict[str, Any] = {}
        setup_testing_defaults(environ)
        environ |= {"PATH_INFO": path, "REQUEST_METHOD": method}
        statuses: list[str] = []
        body = b"".join(app(environ, lambda status, headers, exc_info=None: statuses.append(status)))  # type: ignore[arg-type, return-value]
        return int(statuses[0].split()[0]), json.loads(body) if body[:1] == b"{" else body.decode()

    return ask


def test_metrics_are_at_their_path_and_nowhere_else(ask) -> None:
    status, body = ask("/metrics")
    assert (status, "headrace_tests_total 0.0" in body) == (200, True)
    for path in ("/", "/health", "/healthz", "/ready", "/metrics/", "/livez/x", "//metrics", ""):
        status, body = ask(path)
        assert (status, body) == (404, {"error": "try /metrics, /livez or /readyz"}), path


def test_health_is_a_status_and_says_why(ask) -> None:
    assert ask("/livez") == (200, {"ok": True, "problems": []})
    assert ask("/readyz") == (503, {"ok": False, "problems": ["no model"], "engines": [{"engine": 0}]})
    assert ask("/readyz", "HEAD") == (503, "")
    assert ask("/livez", "POST")[0] == 405


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_the_pages_are_served_on_either_kind_of_address(host: str, free_port: int) -> None:
    with served(CollectorRegistry(), Ailing(), host, free_port):
        place = f"[{host}]" if ":" in host else host
        with urllib.request.urlopen(f"http://{place}:{free_port}/livez", timeout=5) as page:
            assert json.load(page)["ok"]


class Pages:
    """A host's pages."""

    def __init__(self, port: int) -> None:
        self._port = port

    def __call__(self, path: str) -> tuple[int, dict[str, Any]]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/{path}", timeout=5) as page:
                return page.status, json.load(page)
        except urllib.error.HTTPError as refused:
            with refused:
                return refused.code, json.load(refused)


@pytest.fixture
def start(start_host) -> Callable[..., tuple[Any, Pages]]:
    """A host and its pages."""

    def start(redis_url: str, behaviour: str, **settings: Any) -> tuple[Any, Pages]:
        host = start_host(redis_url, behaviour, metrics_port=0, **settings)
        return host, Pages(host.wait_for("metrics_served")["port"])

    return start


@pytest.mark.serial
def test_a_worker_is_ready_when_each_of_its_engine_processes_is(redis_url: str, start, eventually) -> None:
    host, ask = start(redis_url, "serve", engines=2)
    status, body = eventually(lambda: (found := ask("readyz"))[0] == 200 and found)
    assert status == 200
    assert [(engine["engine"], engine["state"], engine["redis"]) for engine in body["engines"]] == [
        (0, "ready", "ok"),
        (1, "ready", "ok"),
    ]
    assert body["engines"][0]["pages_total"] == 10
    assert ask("livez") == (200, {"ok": True, "problems": []})
    host.engines[0].kill()
    _, body = eventually(lambda: (found := ask("readyz"))[0] == 503 and found)
    assert [problem[:9] for problem in body["problems"]] in (["engine 0:"], ["engine 1:"])
    assert ask("livez")[0] == 200
    assert host.end() == 0


@pytest.mark.serial
@pytest.mark.parametrize(
    ("behaviour", "problem"),
    [
        ("loading", "it has been loading its model for"),
        ("cut_off", "nothing listens there"),
        ("alone", "it has not reached Redis for 99 s, longer than its lease"),
        ("crash", "it will be restarted in"),
    ],
)
def test_a_worker_that_can_not_work_is_live_and_says_why_it_is_not_ready(
    redis_url: str, start, eventually, behaviour: str, problem: str
) -> None:
    _, ask = start(redis_url, behaviour)
    eventually(lambda: (found := ask("readyz"))[0] == 503 and problem in found[1]["problems"][0])
    assert ask("livez") == (200, {"ok": True, "problems": []})


@pytest.mark.serial
def test_a_worker_that_hands_over_is_not_ready(redis_url: str, start, eventually) -> None:
    host, ask = start(redis_url, "slow")
    eventually(lambda: ask("readyz")[0] == 200)
    host.process.terminate()
    _, body = eventually(lambda: (found := ask("readyz"))[0] == 503 and found)
    assert body["problems"][0] == "the worker has been told to stop"
    assert host.process.wait(20) == 0


@pytest.fixture
def service(own_redis: "EmbeddedRedis", monkeypatch) -> Iterator[callbacks.Service]:
    """Callbacks on a Redis of their own, not started yet."""
    monkeypatch.setattr(callbacks, "QUEUES_S", 0.05)
    app = Celery("team", broker="memory://", set_as_current=False)
    settings = CallbacksSettings(redis_url=own_redis.url)
    service = callbacks.Service(settings, app, CallbackMetrics(), lambda: pytest.fail("a thread failed"))
    yield service
    service.stop()


@pytest.mark.serial
def test_callbacks_are_ready_while_redis_takes_what_they_write(
    own_redis: "EmbeddedRedis", service: callbacks.Service, eventually
) -> None:
    assert service.ready().problems == ["it is starting"]
    service.start()
    eventually(lambda: not service.ready().problems)
    assert service.ready().facts == {"app": "team", "queues": []}
    own_redis.stop()
    [problem] = eventually(lambda: service.ready().problems)
    assert problem.startswith("Redis: ")
    assert not service.live().problems
    own_redis.start()
    eventually(lambda: not service.ready().problems)


def test_callbacks_whose_loop_stands_still_are_not_live(service: callbacks.Service, monkeypatch) -> None:
    assert not service.live().problems
    monkeypatch.setattr(callbacks, "LATE_S", -1.0)
    assert service.live().problems == ["its loop has made no progress for 0 s"]
