"""The dashboard: Redis is read once for all pages, only while one is open, and pages get what changed."""

import asyncio
import json
from contextlib import aclosing

import pytest

from headrace.producers.gateway.console import dashboard as module
from headrace.producers.gateway.console.dashboard import Dashboard, Source
from headrace.schemas.errors import BrokerUnavailable

from ....support.waiting import wait_until_async


class Counted:
    """A source that counts how often it is read."""

    def __init__(self) -> None:
        self.reads, self.value, self.error = 0, 0, None

    async def read(self) -> dict[str, int]:
        self.reads += 1
        if self.error is not None:
            raise self.error
        return {"value": self.value, "history": self.reads}


@pytest.fixture
def counted(monkeypatch) -> Counted:
    monkeypatch.setattr(module, "EVERY_S", 0.01)
    return Counted()


async def next_of(changes, wanted: str) -> object:
    async for name, body in changes:
        if name == wanted:
            return json.loads(body)
    raise AssertionError(wanted)


async def test_redis_is_read_only_while_a_page_is_open_and_once_for_all_of_them(counted):
    dashboard = Dashboard([Source("things", counted.read)])
    assert counted.reads == 0
    async with aclosing(dashboard.changes()) as one, aclosing(dashboard.changes()) as other:
        assert await next_of(one, "value") == 0
        read = counted.reads
        assert await next_of(other, "value") == 0
        assert counted.reads == read, "the second page was given what the first one had"
        assert dashboard.pages == 2
    assert dashboard.pages == 0
    read = counted.reads
    await asyncio.sleep(0.05)
    assert counted.reads == read


async def test_a_page_gets_a_section_again_when_it_changed_and_some_only_at_the_beginning(counted):
    dashboard = Dashboard([Source("things", counted.read)], once=frozenset({"history"}))
    async with aclosing(dashboard.changes()) as changes:
        first = {(await anext(changes))[0] for _ in range(3)}
        assert first == {"value", "history", "errors"}
        reads = counted.reads
        await wait_until_async(lambda: counted.reads > reads + 2)
        counted.value = 7
        dashboard.refresh()
        assert await anext(changes) == ("value", "7")


async def test_what_cannot_be_read_is_named_and_stays_as_it_was(counted):
    dashboard = Dashboard([Source("things", counted.read)])
    async with aclosing(dashboard.changes()) as changes:
        assert await next_of(changes, "value") == 0
        assert await next_of(changes, "errors") == {}
        counted.error = BrokerUnavailable("redis://secret-host: refused")
        assert await next_of(changes, "errors") == {
            "things": "the service is unavailable at the moment; try again"
        }
        counted.error = ValueError("damaged: a secret")
        assert await next_of(changes, "errors") == {"things": "The gateway failed to answer this request."}
        counted.error = None
        assert await next_of(changes, "errors") == {}
