"""The outbox of one queue, shared by all processes that handle it.

They are one consumer of one group: an entry that was left alone for long, not a consumer's name, shows that
its reader is gone. A process that takes up an entry has it for `relay_s`; after that, the next one may take
it up. So a process that comes late to one of its entries asks for it again (`keep`), and gets it only if
nobody else has.
"""

import time
from typing import Any

from redis import Redis
from redis.exceptions import ResponseError

from ...schemas.keys import RELAY_GROUP, Tag
from ...schemas.record import Record
from ...schemas.redis.connection import broker_errors
from ...schemas.scripts import drop_entry, run

CONSUMER = "relay"
BATCH = 64
WAIT_S = 1.0
"""How long one read waits for entries; also how long a stop may take."""

MOST_LEFT = 10_000
"""Maximum number of pending notes to another app's callbacks, which find other entries a little later."""

_START = "0-0"
# Our clock and Redis's round differently: a little less than what we measured, or the entry would seem to be
# another's.
_ROUNDING_MS = 5
_LEFT_MS = 3_600_000
"""An idle time beyond any process's `relay_s`."""

Entry = tuple[str, dict[bytes, bytes]]
"""Its id and its fields."""


class Outbox:
    """Reads entries and records how they were handled. Its methods raise `BrokerUnavailable`.

    Args:
        relay_s: how long an entry belongs to its reader.
        app: the Celery app whose tasks are completed here; empty if it has no name.
    """

    def __init__(self, redis: Redis, tag: Tag, relay_s: float, app: str = "") -> None:
        self._redis, self._tag, self._relay_s = redis, tag, relay_s
        self._left = tag.left(app) if app else None
        self._abandoned_at, self._abandoned_from = 0.0, _START

    def join(self) -> None:
        """Create the groups if they don't exist yet."""
        for stream in filter(None, (self._tag.outbox, self._left)):
            with broker_errors():
                try:
                    self._redis.xgroup_create(stream, RELAY_GROUP, "0", mkstream=True)
                except ResponseError as error:
                    if "BUSYGROUP" not in str(error):
                        raise
        if self._left:  # notes to a process that has died: their entries are found as abandoned ones
            with broker_errors():
                self._redis.xtrim(self._left, maxlen=0)

    def fresh(self) -> list[Entry]:
        """New entries, or entries left to this app; waits a moment for some."""
        streams: dict[Any, Any] = dict.fromkeys(filter(None, (self._tag.outbox, self._left)), ">")
        with broker_errors():
            found: Any = self._redis.xreadgroup(
                RELAY_GROUP, CONSUMER, streams, count=BATCH, block=round(WAIT_S * 1000)
            )
        read: list[Entry] = []
        for stream, entries in found or ():
            if stream.decode() == self._left:
                entries = self._take(entries)
            read += [(entry_id.decode(), fields) for entry_id, fields in entries]
        return read

    def _take(self, words: list[tuple[bytes, dict[bytes, bytes]]]) -> list[tuple[bytes, dict[bytes, bytes]]]:
        """The entries that were left to this app's callbacks and are still unclaimed."""
        assert self._left is not None
        with broker_errors():
            pipe = self._redis.pipeline(transaction=False)
            pipe.xclaim(
                self._tag.outbox,
                RELAY_GROUP,
                CONSUMER,
                self._relay_ms,
                [fields[b"entry"] for _, fields in words],
            )
            pipe.xack(self._left, RELAY_GROUP, *(word_id for word_id, _ in words))
            pipe.xdel(self._left, *(word_id for word_id, _ in words))
            entries, *_ = pipe.execute()
        return [(entry_id, fields) for entry_id, fields in entries if fields]

    def abandoned(self) -> list[Entry]:
        """Entries that some process, perhaps this one, took up and didn't finish in time."""
        now = time.monotonic()
        if now < self._abandoned_at:
            return []
        with broker_errors():
            following, entries, *_ = self._redis.xautoclaim(
                self._tag.outbox, RELAY_GROUP, CONSUMER, self._relay_ms, self._abandoned_from, count=BATCH
            )
        self._abandoned_from = following.decode()
        if self._abandoned_from == _START:  # all have been looked at
            self._abandoned_at = now + self._relay_s / 4
        return [(entry_id.decode(), fields) for entry_id, fields in entries if fields]

    def keep(self, entry_id: str, since: float) -> bool:
        """Keep an entry for another `relay_s`; return False if another process has it, or it is gone.

        Args:
            entry_id: its id.
            since: the monotonic time at which it was certainly ours.
        """
        idle_ms = max(0, int(1000 * (time.monotonic() - since)) - _ROUNDING_MS)
        with broker_errors():
            return bool(
                self._redis.xclaim(self._tag.outbox, RELAY_GROUP, CONSUMER, idle_ms, [entry_id], justid=True)
            )

    def leave(self, entry_id: str, app: str = "") -> None:
        """Release an entry that is for another process.

        Args:
            entry_id: its id.
            app: the Celery app whose callbacks are told about it.
        """
        with broker_errors():
            pipe = self._redis.pipeline(transaction=False)
            # As if left alone for an hour: the next process that asks for abandoned entries gets it.
            pipe.xclaim(self._tag.outbox, RELAY_GROUP, CONSUMER, 0, [entry_id], idle=_LEFT_MS, justid=True)
            if app:
                pipe.xadd(self._tag.left(app), {"entry": entry_id}, maxlen=MOST_LEFT)
            pipe.execute()

    def remove(self, entry_id: str) -> None:
        """Remove an entry, because everything that follows is done."""
        run(self._redis, drop_entry(self._tag, entry_id))

    def record(self, job_id: str) -> Record:
        """A job's record; empty if its retention has ended."""
        with broker_errors():
            known: dict[Any, Any] = self._redis.hgetall(self._tag.job(job_id))
        return Record(job_id, {name.decode(): value.decode() for name, value in known.items()})

    @property
    def _relay_ms(self) -> int:
        return round(self._relay_s * 1000)
