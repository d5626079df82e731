"""An embedded Redis server, for `headrace up`, the demo and the tests."""

from .server import EmbeddedRedis

__all__ = ["EmbeddedRedis"]
