"""The outbox of one queue, as all who see to it share it.

They are one consumer of one group: how long an entry was left alone says that its reader is gone, not a
name. Who took an entry up has it for `relay_s`; whoever comes by after that takes it up anew. So who comes to
one of its entries late asks for it again (`keep`), and has it only if nobody took it up in between.
"""

import time
from typing import Any

from redis import Redis
from redis.exceptions import ResponseError

from ...schemas.events import Record
from ...schemas.keys import RELAY_GROUP, Tag
from ...schemas.redis.connection import broker_errors
from ...schemas.scripts import drop_entry, run

CONSUMER = "relay"
BATCH = 64
WAIT_S = 1.0
"""How long one read waits for entries; also how long a stop may take."""

MOST_LEFT = 10_000
"""Words to the callbacks of another app; what is beyond them they find a little later."""

_START = "0-0"
_ROUNDING_MS = 5
_LEFT_MS = 3_600_000
"""An idle time beyond any `relay_s`, the other process's too."""

Entry = tuple[str, dict[bytes, bytes]]
"""Its id and its fields."""


class Outbox:
    """Reads entries, and notes what became of them. Its methods raise `BrokerUnavailable`.

    Args:
        relay_s: for how long an entry is its reader's.
        app: the Celery app whose tasks are completed here; empty where it has no name.
    """

    def __init__(self, redis: Redis, tag: Tag, relay_s: float, app: str = "") -> None:
        self._redis, self._tag, self._relay_s = redis, tag, relay_s
        self._left = tag.left(app) if app else None
        self._abandoned_at, self._abandoned_from = 0.0, _START

    def join(self) -> None:
        """Make the groups if there are none yet."""
        for stream in filter(None, (self._tag.outbox, self._left)):
            with broker_errors():
                try:
                    self._redis.xgroup_create(stream, RELAY_GROUP, "0", mkstream=True)
                except ResponseError as error:
                    if "BUSYGROUP" not in str(error):
                        raise
        if self._left:  # words to a process that has died: what they are of is found as abandoned
            with broker_errors():
                self._redis.xtrim(self._left, maxlen=0)

    def fresh(self) -> list[Entry]:
        """Entries that nobody has seen, or that were left to this app; waits a moment for some."""
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
        """The entries that were left to this app's callbacks and are still nobody's."""
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
        """Entries that somebody, perhaps this process, took up and did not end in time."""
        now = time.monotonic()
        if now < self._abandoned_at:
            return []
        with broker_errors():
            following, entries, *_ = self._redis.xautoclaim(
                self._tag.outbox, RELAY_GROUP, CONSUMER, self._relay_ms, self._abandoned_from, count=BATCH
            )
        self._abandoned_from = following.decode()
        if self._abandoned_from == _START:  # all were looked at
            self._abandoned_at = now + self._relay_s / 4
        return [(entry_id.decode(), fields) for entry_id, fields in entries if fields]

    def keep(self, entry_id: str, since: float) -> bool:
        """Have an entry for `relay_s` more; False where somebody else has taken it up, or it is gone.

        Args:
            entry_id: its id.
            since: the monotonic time when it was had for certain.
        """
        idle_ms = max(0, int(1000 * (time.monotonic() - since)) - _ROUNDING_MS)
        with broker_errors():
            return bool(
                self._redis.xclaim(self._tag.outbox, RELAY_GROUP, CONSUMER, idle_ms, [entry_id], justid=True)
            )

    def leave(self, entry_id: str, app: str = "") -> None:
        """Let the next one who comes by have it: it is for another process.

        Args:
            entry_id: its id.
            app: the Celery app whose callbacks are told of it.
        """
        with broker_errors():
            pipe = self._redis.pipeline(transaction=False)
            pipe.xclaim(self._tag.outbox, RELAY_GROUP, CONSUMER, 0, [entry_id], idle=_LEFT_MS, justid=True)
            if app:
                pipe.xadd(self._tag.left(app), {"entry": entry_id}, maxlen=MOST_LEFT)
            pipe.execute()

    def remove(self, entry_id: str) -> None:
        """All that follows is done."""
        run(self._redis, drop_entry(self._tag, entry_id))

    def record(self, job_id: str) -> Record:
        """What is known of a job; nothing when its retention has ended."""
        with broker_errors():
            known: dict[Any, Any] = self._redis.hgetall(self._tag.job(job_id))
        return Record(job_id, {name.decode(): value.decode() for name, value in known.items()})

    @property
    def _relay_ms(self) -> int:
        return round(self._relay_s * 1000)
