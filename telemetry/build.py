"""A metric that says which version is running."""

import platform
from importlib.metadata import version

from prometheus_client import CollectorRegistry, Gauge


def build_info(registry: CollectorRegistry) -> None:
    """A metric that is always 1 and whose labels say what is running."""
    Gauge(
        "headrace_build_info",
        "What runs here, by its labels; always 1.",
        ("version", "python"),
        registry=registry,
        multiprocess_mode="livemostrecent",
    ).labels(version("headrace"), platform.python_version()).set(1)
