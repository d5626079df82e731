"""The primary that Sentinels name, for asyncio; kept apart so that the blocking client imports no asyncio."""

from redis.asyncio import Redis


class AsyncPrimary(Redis):
    """A client of the primary; closing it also closes the connections to the Sentinels."""

    async def aclose(self, close_connection_pool: bool | None = None) -> None:
        """Close all connections; a `client()` closes only its own."""
        await super().aclose(close_connection_pool)
        if self.auto_close_connection_pool:
            for sentinel in self.connection_pool.sentinel_manager.sentinels:  # type: ignore[attr-defined]
                await sentinel.aclose()
