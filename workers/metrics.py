"""Every metric of a worker, declared here and nowhere else.

The engine process records things many times a second, but is scraped every few seconds. So histograms are
counted in plain lists and published to prometheus_client once a second, by `Metrics.engine`; a killed process
loses at most that last second.

A host and its engine processes share one folder of memory-mapped values (`share`). Values are kept by the
engine's place (`engine-0`) rather than by process id, so a restarted engine process continues its
predecessor's counts, and the folder doesn't grow with restarts.
"""

import os
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, values
from prometheus_client.multiprocess import mark_process_dead

from ..schemas.events import FinishReasonName, JobState
from ..telemetry.build import build_info

if TYPE_CHECKING:
    from ..engine import EngineStats

FOLDER_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
HOST_PLACE = "host"

# Decades in steps of 1, 2.5, 5, from what an idle machine does to where users have long given up.
FIRST_TOKEN_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
TOTAL_S = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 900.0, 3600.0)
WAIT_S = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)
# Finest from 10 to 50 ms, where objectives for reading speed lie.
INTER_TOKEN_S = (
    *(0.001, 0.0025, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.025, 0.03, 0.04, 0.05),
    *(0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5),
)
STEP_S = INTER_TOKEN_S
# From a local socket's round trip up to the connection's socket timeout.
ROUND_TRIP_S = (0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 15.0)
STEP_TOKENS = tuple(float(2**power) for power in range(14))


def share(folder: str | Path, place: str) -> None:
    """Keep this process's metrics in `folder` as `place`. Call it before any metric is made.

    Only one living process may hold a place.
    """
    os.environ[FOLDER_VARIABLE] = str(folder)
    # The library names each process's file by what this returns, by default the process id.
    values.ValueClass = values.MultiProcessValue(lambda: place)  # type: ignore[no-untyped-call]


def engine_place(index: int) -> str:
    """The place of engine process `index`."""
    return f"engine-{index}"


def forget(folder: str | Path, place: str) -> None:
    """Zero the gauges of `place`, whose process has ended; its counters stay."""
    mark_process_dead(place, path=str(folder))


class _LabelledMetrics:
    """Makes metrics that all carry the model's name."""

    def __init__(self, model: str, registry: CollectorRegistry) -> None:
        self._model, self._registry = model, registry

    def gauge(self, name: str, text: str, mode: Literal["livesum", "livemostrecent"] = "livesum") -> Gauge:
        family = Gauge(f"headrace_{name}", text, ("model",), registry=self._registry, multiprocess_mode=mode)
        return family.labels(self._model)

    def counter(self, name: str, text: str) -> Counter:
        return Counter(f"headrace_{name}", text, ("model",), registry=self._registry).labels(self._model)

    def counters(self, name: str, text: str, label: str, each: Iterable[str]) -> dict[str, Counter]:
        family = Counter(f"headrace_{name}", text, ("model", label), registry=self._registry)
        return {value: family.labels(self._model, value) for value in each}

    def histogram(self, name: str, text: str, buckets: Sequence[float]) -> "_BatchedHistogram":
        family = Histogram(f"headrace_{name}", text, ("model",), registry=self._registry, buckets=buckets)
        return _BatchedHistogram(family.labels(self._model), buckets)


class _BatchedHistogram:
    """A histogram that is counted here and published all at once."""

    __slots__ = ("_bounds", "_counts", "_histogram", "_sum")

    def __init__(self, histogram: Histogram, buckets: Sequence[float]) -> None:
        self._histogram = histogram
        self._bounds = tuple(buckets)
        # One more than bounds, for what is above the last: the bucket of infinity.
        self._counts = [0] * (len(buckets) + 1)
        self._sum = 0.0

    def note(self, value: float, count: int = 1) -> None:
        """Record `count` observations of `value`."""
        self._counts[bisect_left(self._bounds, value)] += count
        self._sum += value * count

    def publish(self) -> None:
        """Publish the counts. The library observes one value per call, so its buckets are filled directly."""
        if not any(self._counts):
            return
        for bucket, count in zip(self._histogram._buckets, self._counts, strict=True):
            if count:
                bucket.inc(count)
        self._histogram._sum.inc(self._sum)
        self._counts = [0] * len(self._counts)
        self._sum = 0.0


class Metrics:
    """The metrics of an engine process. For its main thread.

    Args:
        model: the served name, the one label that every metric carries.
        registry: where the metrics are registered; by default a registry of their own.
    """

    def __init__(self, model: str, registry: CollectorRegistry | None = None) -> None:
        make = _LabelledMetrics(model, registry or CollectorRegistry())
        self._running = make.gauge("jobs_running", "Jobs in the running batch.")
        self._waiting = make.gauge("jobs_waiting", "Claimed jobs waiting for the batch or for pages.")
        self._queued = make.gauge(
            "jobs_queued", "Jobs waiting in the queue, as last seen by this worker.", "livemostrecent"
        )
        self._pages = {
            "pages_total": make.gauge("kv_pages_capacity", "All KV pages."),
            "pages_free": make.gauge("kv_pages_free", "Empty KV pages."),
            "pages_cached": make.gauge(
                "kv_pages_cached", "KV pages kept for prompts that begin the same way."
            ),
            "pages_held": make.gauge("kv_pages_held", "KV pages held by running jobs."),
            "pages_shared": make.gauge("kv_pages_shared", "KV pages that several answers hold together."),
            "tokens_held": make.gauge("kv_tokens_held", "Tokens in the KV pages held by running jobs."),
        }
        self._engine_counters = {
            "preemptions": make.counter("preemptions", "Jobs put back because pages ran out."),
            "prefix_query_tokens": make.counter(
                "prefix_query_tokens", "Prompt tokens looked up in the cache."
            ),
            "prefix_hit_tokens": make.counter("prefix_hit_tokens", "Prompt tokens found in the cache."),
            "host_s": make.counter(
                "step_host_seconds", "Step time spent on the host, other than computing or waiting."
            ),
        }
        self._counted: dict[str, float] = dict.fromkeys(self._engine_counters, 0)
        self._claimed = make.counter("jobs_claimed", "Jobs taken from the queue.")
        self._resumed = make.counter("jobs_resumed", "Jobs continued from another worker's tokens.")
        self._ended = make.counters(
            "jobs_ended",
            "Jobs that ended here, by state.",
            "state",
            [s.value for s in JobState if s.terminal],
        )
        self._finished = make.counters(
            "jobs_finished",
            "Jobs that ended here, by finish reason.",
            "finish_reason",
            get_args(FinishReasonName),
        )
        self._prompt_tokens = make.counter("prompt_tokens", "Prompt tokens of admitted jobs.")
        self._output_tokens = make.counter("output_tokens", "Tokens generated.")
        self._fenced = make.counter(
            "fenced_writes", "Writes refused because the job belonged to another worker."
        )
        self._model_changed = make.counters(
            "jobs_model_changed",
            "Jobs whose model was no longer served, by what was done with them.",
            "action",
            ["restart", "resume", "fail"],
        )
        self._outages = make.counter("redis_outages", "Times that Redis stopped answering.")
        self._wait = make.histogram("queue_wait_seconds", "From enqueue to claim.", WAIT_S)
        self._first_token = make.histogram(
            "first_token_seconds", "From enqueue to first token.", FIRST_TOKEN_S
        )
        self._inter_token = make.histogram(
            "inter_token_seconds", "Between two tokens of a job.", INTER_TOKEN_S
        )
        self._total = make.histogram("job_seconds", "From enqueue to the end.", TOTAL_S)
        self._flush = make.histogram("flush_seconds", "Round trips to Redis.", ROUND_TRIP_S)
        self._claim = make.histogram("claim_seconds", "Round trips to Redis that brought jobs.", ROUND_TRIP_S)
        self._step = make.histogram("step_seconds", "Steps of the engine.", STEP_S)
        self._step_tokens = make.histogram("step_output_tokens", "Tokens generated in a step.", STEP_TOKENS)
        self._tallies = [tally for tally in vars(self).values() if isinstance(tally, _BatchedHistogram)]

    def admitted(self, waited_s: float, prompt_tokens: int, *, resumed: bool) -> None:
        """Record that a claimed job starts, `waited_s` after it was enqueued."""
        self._wait.note(waited_s)
        self._prompt_tokens.inc(prompt_tokens)
        if resumed:
            self._resumed.inc()

    def first_token(self, since_enqueue_s: float) -> None:
        """Record a job's first token."""
        self._first_token.note(since_enqueue_s)

    def inter_token(self, gap_s: float, tokens: int = 1) -> None:
        """Record a job's next tokens, which came together `gap_s` after the last; they share the gap."""
        self._inter_token.note(gap_s / tokens, tokens)

    def step(self, took_s: float, output_tokens: int) -> None:
        """Record a step of the engine."""
        self._step.note(took_s)
        self._step_tokens.note(output_tokens)
        self._output_tokens.inc(output_tokens)

    def flush(self, took_s: float, *, claimed: int) -> None:
        """Record a round trip to Redis that brought this many jobs."""
        self._flush.note(took_s)
        if claimed:
            self._claim.note(took_s)
            self._claimed.inc(claimed)

    def ended(self, state: str, finish_reason: FinishReasonName, since_enqueue_s: float) -> None:
        """Record that Redis has confirmed a job's end in `state`, a terminal `JobState`."""
        self._ended[state].inc()
        self._finished[finish_reason].inc()
        self._total.note(since_enqueue_s)

    def queued(self, jobs: int) -> None:
        """Record how many jobs wait in the queue."""
        self._queued.set(jobs)

    def fenced(self) -> None:
        """Record a write that was refused because the job belongs to another worker by now."""
        self._fenced.inc()

    def model_changed(self, action: Literal["restart", "resume", "fail"], jobs: int) -> None:
        """Record how many jobs whose model was gone were restarted, resumed with another, or failed."""
        self._model_changed[action].inc(jobs)

    def outage(self) -> None:
        """Record that Redis stopped answering."""
        self._outages.inc()

    def engine(self, stats: "EngineStats") -> None:
        """Publish the engine's state and counts, and everything recorded since the last call."""
        self._running.set(stats.running)
        self._waiting.set(stats.waiting)
        for name, gauge in self._pages.items():
            gauge.set(getattr(stats, name))
        for name, counter in self._engine_counters.items():
            counted: float = getattr(stats, name)
            # The engine counts from its start; a counter here continues from what earlier processes have
            # counted.
            counter.inc(counted - self._counted[name])
            self._counted[name] = counted
        for tally in self._tallies:
            tally.publish()


class HostMetrics:
    """The host's metrics about its engine processes."""

    def __init__(self, model: str, registry: CollectorRegistry | None = None) -> None:
        registry = registry or CollectorRegistry()
        build_info(registry)
        make = _LabelledMetrics(model, registry)
        self._ready = make.gauge("engines_ready", "Engine processes that claim jobs.")
        self._restarts = make.counter("engine_restarts", "Engine processes restarted after a death.")
        self._looping = make.gauge("engines_crash_looping", "Engine processes that keep dying.")

    def engines(self, *, ready: int, crash_looping: int) -> None:
        """Record how many engine processes are in which state."""
        self._ready.set(ready)
        self._looping.set(crash_looping)

    def restarted(self) -> None:
        """Record the restart of an engine process that had died."""
        self._restarts.inc()
