"""Supervisors over engine stand-ins."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from queue import Queue
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from headrace.workers.host.backoff import RestartPolicy
from headrace.workers.host.supervisor import Supervisor
from headrace.workers.metrics import HostMetrics
from headrace.workers.settings import WorkerSettings

FAST = RestartPolicy(first_s=0.01, most_s=0.05, stable_s=60, loop_deaths=3, loop_window_s=300)


@dataclass
class Run:
    """A supervisor, and where its end and its metrics show."""

    supervisor: Supervisor
    ended: "Queue[int]"
    registry: CollectorRegistry

    def metric(self, name: str) -> float | None:
        return self.registry.get_sample_value(f"headrace_{name}", {"model": "demo"})

    @property
    def info(self) -> dict[str, Any]:
        return self.supervisor.info()

    def pid(self, index: int = 0) -> int:
        return int(self.info[f"engine_{index}_pid"])


@pytest.fixture
def supervise(engine_command: Callable[[str], list[str]]) -> Iterator[Callable[..., Run]]:
    runs: list[Run] = []

    def start(
        behaviour: str,
        policy: RestartPolicy = FAST,
        on_engine: Callable[..., None] = lambda *_, **__: None,
        **settings: Any,
    ) -> Run:
        registry, ended = CollectorRegistry(), Queue[int]()
        supervisor = Supervisor(
            WorkerSettings(redis_url="redis://:hunter2@localhost/0", **settings),
            engine_command(behaviour),
            HostMetrics("demo", registry),
            on_engine=on_engine,
            on_end=ended.put,
            policy=policy,
        )
        runs.append(Run(supervisor, ended, registry))
        supervisor.start()
        return runs[-1]

    yield start
    for run in runs:
        run.supervisor.kill()
        run.supervisor.join()


def all_ready(run: Run) -> bool:
    states = [value for name, value in run.info.items() if name.endswith("_state")]
    return set(states) == {"ready"}
