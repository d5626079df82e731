"""The primary that Sentinels name, for asyncio; apart, so that the blocking client imports no asyncio."""

from redis.asyncio import Redis


class AsyncPrimary(Redis):
    """The connections to the Sentinels end with the primary's own."""

    async def aclose(self, close_connection_pool: bool | None = None) -> None:
        """End all connections; of a `client()`, its own alone."""
        await super().aclose(close_connection_pool)
        if self.auto_close_connection_pool:
            for sentinel in self.connection_pool.sentinel_manager.sentinels:  # type: ignore[attr-defined]
                await sentinel.aclose()
