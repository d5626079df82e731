"""The signal of a reader in an event loop: an `asyncio.Event` whose waits end after a while.

A wait that ends with news leaves its timer armed for the next, which begins a moment later: while tokens
come, hardly any timer is made, where `asyncio.timeout` makes one for each.
"""

import asyncio


class News:
    """Set while there is something to take; one reader waits for it. Use it inside one event loop."""

    __slots__ = ("_due", "_rings_at", "_set", "_timer", "_waiter")

    def __init__(self) -> None:
        self._set = False
        self._waiter: asyncio.Future[bool] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._due = self._rings_at = 0.0

    def set(self) -> None:
        """Signal that there is news."""
        self._set = True
        self._wake(True)

    def clear(self) -> None:
        """Note that the news has been taken."""
        self._set = False

    async def wait(self, seconds: float) -> bool:
        """Wait this long for news; return whether there is any."""
        if self._set:
            return True
        loop = asyncio.get_running_loop()
        self._due = loop.time() + seconds
        if self._timer is None or self._rings_at > self._due:
            self._ring_at(loop, self._due)
        self._waiter = loop.create_future()
        try:
            return await self._waiter
        finally:
            self._waiter = None

    def close(self) -> None:
        """Forget the timer: nobody waits any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _wake(self, news: bool) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(news)

    def _ring_at(self, loop: asyncio.AbstractEventLoop, when: float) -> None:
        self.close()
        self._rings_at, self._timer = when, loop.call_at(when, self._ring, loop)

    def _ring(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        if self._waiter is None:  # whoever waits next arms it
            return
        if loop.time() < self._due:  # armed for an earlier wait
            self._ring_at(loop, self._due)
        else:
            self._wake(False)
