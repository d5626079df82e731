"""One Pub/Sub connection for any number of streams, kept alive as long as there are listeners.

`Hub` runs as one task of an event loop. A broken connection is remade forever, with growing pauses: each
reader decides how long an outage it tolerates. Every (re)subscription that Redis confirms marks the channel's
mailboxes stale, so that everything published meanwhile is read from the log.
"""

import asyncio
import threading
import time
from concurrent.futures import Future
from contextlib import suppress
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import RedisError

from ..schemas.redis.connection import connect_subscriber
from .mailbox import Board, Mailbox
from .steps import Backoff

PING_S = 10.0
"""Also how long the connection stays open after its last listener has gone."""

DEAD_S = 25.0
"""A connection that is silent for this long, despite the pings, is dead."""


CLOSE_S = 5.0
"""What closing waits for; the thread is a daemon."""


class _NobodyListens(Exception):
    pass


class Hub:
    """Fills mailboxes from Pub/Sub. Use it inside one event loop."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._board = Board()
        self._outgoing: asyncio.Queue[tuple[str | bytes, ...]] = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None
        self._closed = False
        self._heard_at = 0.0

    def join(self, mailbox: Mailbox[Any]) -> None:
        """Fill `mailbox` from now on, and mark it stale as soon as nothing can be missed any more."""
        if self._closed:
            mailbox.close()
            return
        if self._board.add(mailbox):
            self._outgoing.put_nowait(("SUBSCRIBE", mailbox.channel))
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._run(), name="headrace-hub")

    def leave(self, mailbox: Mailbox[Any]) -> None:
        """Stop filling `mailbox`."""
        if self._board.remove(mailbox):
            self._outgoing.put_nowait(("UNSUBSCRIBE", mailbox.channel))

    async def close(self) -> None:
        """Disconnect, and tell the readers that are still waiting."""
        self._closed = True
        self._board.close()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        backoff = Backoff()
        # No socket timeout: redis-py then sends inside a `wait_for`, which on Python 3.11 can swallow the
        # cancellation that `close` sends.
        while self._board:
            redis = connect_subscriber(self._url, health_check_interval=0, socket_timeout=None)
            try:
                await self._serve(redis, backoff)
            except* _NobodyListens:
                pass
            except* (RedisError, OSError):
                await asyncio.sleep(backoff.next_s())
            finally:
                await redis.aclose()
        self._task = None  # before anything is awaited: anyone who joins from here on starts a new one

    async def _serve(self, redis: Redis, backoff: Backoff) -> None:
        connection = redis.connection_pool.make_connection()
        try:
            async with asyncio.timeout(DEAD_S):
                await connection.connect()
            self._outgoing = asyncio.Queue()
            if self._board:
                self._outgoing.put_nowait(("SUBSCRIBE", *self._board.channels))
            self._heard_at = time.monotonic()
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._write(connection))
                tasks.create_task(self._read(connection, backoff))
                tasks.create_task(self._watch())
        finally:
            self._board.lost()
            with suppress(RedisError, OSError):
                await connection.disconnect()

    async def _write(self, connection: AbstractConnection) -> None:
        while True:
            try:
                async with asyncio.timeout(PING_S):
                    command = await self._outgoing.get()
            except TimeoutError:
                if not self._board:
                    raise _NobodyListens from None
                command = ("PING",)
            await connection.send_command(*command, check_health=False)

    async def _read(self, connection: AbstractConnection, backoff: Backoff) -> None:
        while True:
            # Disconnecting is left to `_serve`, which waits for its end: TLS takes a round trip for it.
            reply = await connection.read_response(disconnect_on_error=False)
            self._heard_at = time.monotonic()
            backoff.reset()
            self._board.route(reply)

    async def _watch(self) -> None:
        # One timer for the connection: one for each message would cost as much as all else that is done here.
        left_s = DEAD_S
        while left_s > 0:
            await asyncio.sleep(left_s)
            left_s = self._heard_at + DEAD_S - time.monotonic()
        raise TimeoutError(f"Redis: silent for {DEAD_S:g} s")


class ThreadedHub:
    """A `Hub` on an event loop in a daemon thread of its own, for callers that block. Thread-safe."""

    def __init__(self, url: str) -> None:
        self._hub = Hub(url)
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop = asyncio.Event()
        self._closed = False

    def join(self, mailbox: Mailbox[Any]) -> None:
        """See `Hub.join`."""
        with self._lock:
            if self._closed:
                mailbox.close()
                return
            if self._loop is None:
                self._loop = self._start()
            self._loop.call_soon_threadsafe(self._hub.join, mailbox)

    def leave(self, mailbox: Mailbox[Any]) -> None:
        """See `Hub.leave`. Takes no lock: the garbage collector may call it by ending an unread stream."""
        if self._loop is not None:
            with suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._hub.leave, mailbox)

    def close(self) -> None:
        """Stop the thread, and tell the readers that are still waiting."""
        with self._lock:
            self._closed = True
            if self._loop is None or self._thread is None:
                return
            with suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._stop.set)
        if self._thread is not threading.current_thread():  # the garbage collector runs in any thread
            self._thread.join(CLOSE_S)

    def _start(self) -> asyncio.AbstractEventLoop:
        started: Future[asyncio.AbstractEventLoop] = Future()
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._main(started)), name="headrace-hub", daemon=True
        )
        self._thread.start()
        return started.result()

    async def _main(self, started: Future[asyncio.AbstractEventLoop]) -> None:
        started.set_result(asyncio.get_running_loop())
        await self._stop.wait()
        await self._hub.close()
