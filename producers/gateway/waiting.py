"""Waiting for an answer that isn't streamed, for as long as its client wants it."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.requests import Request

from .errors import RETRY_S, Refusal, retry_after
from .state import Gateway

T = TypeVar("T")


class ClientGone(Exception):
    """The client disconnected before its answer was ready."""


async def while_connected(request: Request, wanted: Coroutine[Any, Any, T]) -> T:
    """The result of `wanted`, unless the client goes away or the gateway must stop first.

    Raises:
        ClientGone: the client no longer waits for it.
        Refusal: 503; the client finds another gateway.
    """
    gateway = Gateway.of(request)
    work = asyncio.ensure_future(wanted)
    gone = asyncio.ensure_future(_gone(request))
    stop = asyncio.ensure_future(gateway.stopping.wait())
    try:
        await asyncio.wait({work, gone, stop}, return_when=asyncio.FIRST_COMPLETED)
        if work.done():
            return work.result()
        if gone.done():
            gateway.metrics.disconnects.inc()
            raise ClientGone
        message = "The gateway is stopping; send the request again."
        raise Refusal(503, message, code="gateway_stopping", headers=retry_after(RETRY_S))
    finally:
        for task in (work, gone, stop):
            task.cancel()
        # Awaited, so that nothing of this request runs on after its answer.
        await asyncio.gather(work, gone, stop, return_exceptions=True)


async def _gone(request: Request) -> None:
    """Return when the client has disconnected; its request has been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
