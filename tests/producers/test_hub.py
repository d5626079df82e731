"""The one Pub/Sub connection."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from urllib.parse import urlsplit

import pytest

from headrace.producers import hub
from headrace.producers.mailbox import Mailbox
from headrace.schemas.redis.connection import connect

from ..chaos.proxy import Proxy

CHANNEL = "test-hub"


@pytest.fixture
def proxy(redis_url: str) -> Iterator[Proxy]:
    """A way to Redis."""
    proxy = Proxy(urlsplit(redis_url).port or 6379)
    yield proxy
    proxy.close()


async def test_a_connection_that_fell_silent_is_made_again(
    proxy: Proxy,
    redis_url: str,
    until_async: Callable[..., Awaitable[None]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(hub, "PING_S", 0.1)
    monkeypatch.setattr(hub, "DEAD_S", 0.5)
    listening = hub.Hub(proxy.url)
    mailbox = Mailbox(CHANNEL, asyncio.Event())
    mailbox.join(listening)
    with connect(redis_url) as redis:

        def heard() -> bool:
            redis.publish(CHANNEL, b"x")
            return bool(mailbox.take())

        try:
            await until_async(heard)
            proxy.forget()
            await until_async(lambda: mailbox.take() is None)  # told to read the log: subscribed anew
            await until_async(heard)
        finally:
            await listening.close()
