"""A Redis server of our own, for `headrace up`, the demo and the tests."""

from .server import EmbeddedRedis

__all__ = ["EmbeddedRedis"]
