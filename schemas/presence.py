"""Which Celery apps have `headrace callbacks` alive; each process says so every two seconds."""

from collections.abc import Mapping
from typing import Any

from redis import Redis

from . import keys
from .redis.connection import broker_errors

SILENT_MS = 10_000
"""Callbacks that have been silent for this long are gone, or can't reach Redis."""

FORGOTTEN_MS = 7 * 86_400_000


def note_presence(redis: Redis, app: str, namespace: str) -> frozenset[str]:
    """Record that callbacks of `app` are alive; return all apps that have some alive.

    Raises:
        BrokerUnavailable: Redis can't be reached or refuses.
    """
    name = keys.callbacks(namespace)
    with broker_errors():
        now = redis.time()
        redis.hset(name, app, _ms(now))
        said: Any = redis.hgetall(name)
        # Without a TTL of its own, a field would stay for every app that ever ran.
        gone = [other for other, at in said.items() if _ms(now) - int(at) > FORGOTTEN_MS]
        if gone:
            redis.hdel(name, *gone)
    return present(now, said)


def present(now: tuple[int, int], said: Mapping[bytes, bytes]) -> frozenset[str]:
    """The apps that have callbacks alive, from the replies to TIME and to HGETALL of their key."""
    return frozenset(app.decode() for app, at in said.items() if _ms(now) - int(at) < SILENT_MS)


def serves(living: frozenset[str], app: str | None) -> bool:
    """Whether any living callbacks complete tasks of `app`. If it has no name, all of them do."""
    return app in living if has_name(app) else bool(living)


def has_name(app: str | None) -> bool:
    """Whether an app has a name of its own; `Celery(__name__)` in a script is called `__main__`."""
    return app not in (None, "", "__main__")


def _ms(now: tuple[int, int]) -> int:
    return int(now[0]) * 1000 + int(now[1]) // 1000
