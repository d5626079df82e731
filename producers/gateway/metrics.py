"""Every metric of `headrace gateway`."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from ...telemetry.build import build_info

# From a refusal up to a long answer that isn't streamed.
ANSWER_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)


class GatewayMetrics:
    """The metrics of one gateway process.

    Attributes:
        registry: where they are registered.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "headrace_gateway_requests",
            "Requests by route, method and status.",
            ("route", "method", "status"),
            registry=self.registry,
        )
        self._took = Histogram(
            "headrace_gateway_request_seconds",
            "From a request's headers to the end of its response.",
            ("route",),
            registry=self.registry,
            buckets=ANSWER_S,
        )
        self.streams = Gauge("headrace_gateway_streams", "Streams being sent.", registry=self.registry)
        self.events = Counter(
            "headrace_gateway_stream_events", "Events sent on streams.", registry=self.registry
        )
        self.disconnects = Counter(
            "headrace_gateway_disconnects",
            "Responses whose client went away before their end.",
            registry=self.registry,
        )
        build_info(self.registry)

    def answered(self, route: str, method: str, status: int, took_s: float) -> None:
        """Record a response."""
        self._requests.labels(route, method, str(status)).inc()
        self._took.labels(route).observe(took_s)
