"""Every metric of `headrace callbacks`."""

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from ...schemas.job import JobClass
from ...telemetry.build import build_info
from .backlog import Backlog

# From a receiver next door up to the overall deadline.
ATTEMPT_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 15.0, 30.0)


class CallbackMetrics:
    """The metrics of one callbacks process.

    Args:
        registry: where they are registered; by default a registry of their own.
    """

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        registry = registry or CollectorRegistry()
        self._relayed = Counter(
            "headrace_outbox_entries", "Outbox entries handled, by outcome.", ("outcome",), registry=registry
        )
        self._attempts = Counter(
            "headrace_webhook_attempts",
            "Attempts to deliver, by outcome.",
            ("state",),
            registry=registry,
        )
        self._took = Histogram(
            "headrace_webhook_seconds", "Attempts to deliver.", registry=registry, buckets=ATTEMPT_S
        )
        self._expired = Counter(
            "headrace_webhooks_expired",
            "Deliveries whose retention ended before they were delivered or given up.",
            registry=registry,
        )
        self._sending = Gauge("headrace_webhooks_sending", "Attempts in flight.", registry=registry)
        of_class, of_model = ("model", "class"), ("model",)
        self._queued = Gauge(
            "headrace_queue_jobs", "Jobs waiting for a worker, by class.", of_class, registry=registry
        )
        self._oldest = Gauge(
            "headrace_queue_oldest_seconds",
            "How long the oldest of them has waited.",
            of_class,
            registry=registry,
        )
        self._delayed = Gauge(
            "headrace_queue_delayed_jobs", "Jobs that are not due yet.", of_model, registry=registry
        )
        self._outbox = Gauge(
            "headrace_outbox_depth",
            "Outbox entries waiting to be handled.",
            of_model,
            registry=registry,
        )
        self._outbox_oldest = Gauge(
            "headrace_outbox_oldest_seconds", "Age of the oldest of them.", of_model, registry=registry
        )
        self._dead = Gauge("headrace_dead_letters", "Dead letters.", of_model, registry=registry)
        build_info(registry)
        for outcome in ("done", "waits", "left", "dropped"):
            self._relayed.labels(outcome)

    def relayed(self, outcome: str) -> None:
        """Record an outbox entry as `done`, `waits` (for Celery), `left` (to others) or `dropped`."""
        self._relayed.labels(outcome).inc()

    def attempted(self, state: str, took_s: float) -> None:
        """Record an attempt that left its delivery in `state`."""
        self._attempts.labels(state).inc()
        self._took.observe(took_s)

    def backlog(self, found: Mapping[str, Backlog]) -> None:
        """Record what waits, by model."""
        for model, backlog in found.items():
            for job_class in JobClass:
                self._queued.labels(model, job_class.value).set(backlog.jobs[job_class])
                self._oldest.labels(model, job_class.value).set(backlog.oldest_s[job_class])
            self._delayed.labels(model).set(backlog.delayed)
            self._outbox.labels(model).set(backlog.outbox)
            self._outbox_oldest.labels(model).set(backlog.outbox_s)
            self._dead.labels(model).set(backlog.dead)

    def expired(self, deliveries: int) -> None:
        """Record how many deliveries expired before they were delivered or given up."""
        self._expired.inc(deliveries)

    def sending(self, attempts: int) -> None:
        """Record how many attempts are in flight."""
        self._sending.set(attempts)
