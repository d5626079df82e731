import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.multiprocess import MultiProcessCollector

from headrace.engine import EngineStats
from headrace.schemas.events import JobState
from headrace.workers.metrics import (
    FIRST_TOKEN_S,
    INTER_TOKEN_S,
    ROUND_TRIP_S,
    STEP_S,
    STEP_TOKENS,
    TOTAL_S,
    WAIT_S,
    Metrics,
    engine_place,
    forget,
)


def engine_stats(**counts: float) -> EngineStats:
    zeros = dict.fromkeys(EngineStats.__dataclass_fields__, 0)
    return EngineStats(**(zeros | counts))


class Told:
    """Metrics on a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.metrics = Metrics("demo", self.registry)

    def value(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(f"headrace_{name}", {"model": "demo", **labels})

    def samples(self, family: str) -> list[tuple[str, float | None]]:
        return [
            (sample.labels.get("le", sample.name.removeprefix(f"headrace_{family}")), sample.value)
            for metric in self.registry.collect()
            for sample in metric.samples
            if metric.name == f"headrace_{family}" and not sample.name.endswith("_created")
        ]


@pytest.fixture
def told() -> Told:
    return Told()


def test_histograms_hold_what_the_library_would_have_counted(told: Told) -> None:
    observed = [0.0, 0.001, 0.0011, 0.01, 0.02, 0.02, 99.0]
    for value in observed:
        told.metrics.inter_token(value)
    told.metrics.engine(engine_stats())
    told.metrics.engine(engine_stats())
    registry = CollectorRegistry()
    reference = Histogram(
        "headrace_inter_token_seconds", "", ("model",), registry=registry, buckets=INTER_TOKEN_S
    )
    for value in observed:
        reference.labels("demo").observe(value)
    expected = [
        (sample.labels.get("le", sample.name.removeprefix("headrace_inter_token_seconds")), sample.value)
        for metric in registry.collect()
        for sample in metric.samples
        if not sample.name.endswith("_created")
    ]
    assert told.samples("inter_token_seconds") == expected


def test_tokens_that_come_together_share_their_gap(told: Told) -> None:
    told.metrics.inter_token(0.4, tokens=4)
    told.metrics.engine(engine_stats())
    assert told.value("inter_token_seconds_count") == 4
    assert told.value("inter_token_seconds_sum") == pytest.approx(0.4)
    assert told.value("inter_token_seconds_bucket", le="0.1") == 4


def test_engine_counters_follow_the_engine_without_counting_twice(told: Told) -> None:
    told.metrics.engine(engine_stats(preemptions=2, prefix_query_tokens=100, prefix_hit_tokens=64))
    told.metrics.engine(
        engine_stats(preemptions=3, prefix_query_tokens=100, prefix_hit_tokens=64, running=5, host_s=0.25)
    )
    assert told.value("preemptions_total") == 3
    assert told.value("prefix_query_tokens_total") == 100
    assert told.value("prefix_hit_tokens_total") == 64
    assert told.value("jobs_running") == 5
    assert told.value("step_host_seconds_total") == 0.25


def test_the_life_of_a_job_is_counted_once(told: Told) -> None:
    metrics = told.metrics
    metrics.flush(0.002, claimed=1)
    metrics.flush(0.002, claimed=0)
    metrics.admitted(1.5, 30, resumed=True)
    metrics.first_token(2.0)
    metrics.step(0.01, 3)
    metrics.ended(JobState.SUCCEEDED.value, "length", 4.0)
    metrics.fenced()
    metrics.outage()
    metrics.queued(7)
    metrics.engine(engine_stats())
    counted = {
        name: told.value(name)
        for name in (
            *("jobs_claimed_total", "jobs_resumed_total", "prompt_tokens_total", "output_tokens_total"),
            *(
                "flush_seconds_count",
                "claim_seconds_count",
                "queue_wait_seconds_sum",
                "first_token_seconds_sum",
            ),
            *("job_seconds_sum", "fenced_writes_total", "redis_outages_total", "jobs_queued"),
        )
    }
    assert list(counted.values()) == [1, 1, 30, 3, 2, 1, 1.5, 2.0, 4.0, 1, 1, 7]
    assert told.value("jobs_ended_total", state="succeeded") == 1
    assert told.value("jobs_ended_total", state="failed") == 0
    assert told.value("jobs_finished_total", finish_reason="length") == 1
    assert told.value("jobs_finished_total", finish_reason="stop") == 0


def test_labels_are_bounded_and_every_metric_says_what_it_is(told: Told) -> None:
    told.metrics.engine(engine_stats())
    for metric in told.registry.collect():
        assert metric.documentation.endswith(".")
        for sample in metric.samples:
            assert set(sample.labels) <= {"model", "state", "finish_reason", "action", "le"}


@pytest.mark.parametrize(
    "buckets", [FIRST_TOKEN_S, INTER_TOKEN_S, ROUND_TRIP_S, STEP_S, STEP_TOKENS, TOTAL_S, WAIT_S]
)
def test_buckets_rise(buckets: tuple[float, ...]) -> None:
    assert list(buckets) == sorted(set(buckets))


ENGINE = """
import sys
from types import SimpleNamespace
from headrace.workers.metrics import Metrics, engine_place, share
folder, index, *fields = sys.argv[1:]
share(folder, engine_place(int(index)))
metrics = Metrics("demo")
metrics.step(0.01, 5)
metrics.engine(SimpleNamespace(**(dict.fromkeys(fields, 0) | {"running": 3})))
import os
os._exit(9)
"""


def test_a_killed_process_s_counts_stay_its_state_goes_and_no_file_is_added(tmp_path: Path) -> None:
    registry = CollectorRegistry()
    MultiProcessCollector(registry, path=str(tmp_path))

    def value(name: str) -> float | None:
        return registry.get_sample_value(f"headrace_{name}", {"model": "demo"})

    def run_engine(index: int) -> None:
        fields = EngineStats.__dataclass_fields__
        ended = subprocess.run([sys.executable, "-c", ENGINE, str(tmp_path), str(index), *fields])
        assert ended.returncode == 9

    run_engine(0)
    run_engine(1)
    assert (value("output_tokens_total"), value("jobs_running")) == (10, 6)
    files = len(list(tmp_path.iterdir()))
    forget(tmp_path, engine_place(0))
    assert (value("output_tokens_total"), value("jobs_running")) == (10, 3)
    run_engine(0)
    assert (value("output_tokens_total"), value("step_seconds_count")) == (15, 3)
    assert value("jobs_running") == 6
    assert len(list(tmp_path.iterdir())) == files
