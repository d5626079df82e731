"""A Redis server of our own, for `headrace up`, the demo and the tests."""

from .errors import EmbeddedRedisError
from .server import EmbeddedRedis

__all__ = ["EmbeddedRedis", "EmbeddedRedisError"]
