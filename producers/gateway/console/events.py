"""Server-sent events of the console: what the dashboard shows, and the text of a job as it is generated."""

import asyncio
import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing, suppress

from ....schemas.errors import BrokerUnavailable, HeadraceError
from ...async_client import AsyncJobHandle
from ..errors import refusal_of
from ..sse import PING, event
from ..state import Gateway
from .dashboard import Dashboard


async def dashboard_events(dashboard: Dashboard) -> AsyncGenerator[bytes]:
    """One section per event, which names it, whenever it changes."""
    async with aclosing(dashboard.changes()) as changes:
        async for name, body in changes:
            yield event(body, name=name)


async def job_events(job: AsyncJobHandle, from_offset: int) -> AsyncGenerator[bytes]:
    """A job's text from a token on; each event's id is the number of tokens so far. The last one is `end`.

    While Redis is away, they break off without an end, and the page asks for the rest.
    """
    offset = from_offset
    try:
        async for chunk in job.stream(from_offset):
            offset = chunk.offset
            yield _event("text", {"text": chunk.text}, offset)
        result = await job.result()
        ended: dict[str, object] = {"state": result.state, "reason": result.finish_reason}
    except BrokerUnavailable:
        return
    except HeadraceError as error:
        ended = {"state": error.code, "reason": refusal_of(error).message}
    yield _event("end", ended, offset)


def _event(name: str, body: Mapping[str, object], offset: int) -> bytes:
    return event(json.dumps(body), event_id=offset, name=name)


async def until_stopped(gateway: Gateway, events: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
    """The events until the gateway stops, with a comment wherever they are silent for long."""
    stop = asyncio.ensure_future(gateway.draining.wait())
    following = asyncio.ensure_future(anext(events))
    try:
        while True:
            tasks: set[asyncio.Future[object]] = {following, stop}  # type: ignore[arg-type]
            await asyncio.wait(
                tasks, timeout=gateway.settings.gateway_ping_s, return_when=asyncio.FIRST_COMPLETED
            )
            if following.done():
                try:
                    yield following.result()
                except StopAsyncIteration:
                    return
                following = asyncio.ensure_future(anext(events))
            elif stop.done():
                return
            else:
                yield PING
    finally:
        stop.cancel()
        following.cancel()
        with suppress(asyncio.CancelledError, StopAsyncIteration):
            await following
        await events.aclose()
