"""Whether the gateway can do its work, asked over HTTP and by the metrics server's thread."""

import asyncio
from dataclasses import dataclass

from ...schemas.errors import HeadraceError
from ...telemetry.health import TURN_S, Report
from .state import Gateway

ASK_S = 1.5
"""How long Redis may take to answer before it counts as away."""


async def ready(gateway: Gateway) -> Report:
    """What prevents requests from being served, without anything that an outsider shouldn't know."""
    if gateway.draining.is_set():
        return Report(["the gateway is stopping"])
    try:
        async with asyncio.timeout(ASK_S):
            models = await gateway.client.models()
    except (HeadraceError, TimeoutError):
        return Report(["Redis does not answer"])
    served = sum(1 for model in models if model.ready)
    return Report([] if served else ["no worker serves a model"], {"models": served})


@dataclass(frozen=True, slots=True)
class LoopHealth:
    """The health of a gateway whose loop runs in another thread."""

    gateway: Gateway
    loop: asyncio.AbstractEventLoop

    def live(self) -> Report:
        """Whether the event loop runs."""

        async def turn() -> Report:
            return Report()

        try:
            return asyncio.run_coroutine_threadsafe(turn(), self.loop).result(TURN_S)
        except TimeoutError:
            return Report([f"the event loop has not turned for {TURN_S:g} s"])

    def ready(self) -> Report:
        """Whether it can do its work."""
        try:
            # A little longer than `ready` itself waits, whose reason says more.
            return asyncio.run_coroutine_threadsafe(ready(self.gateway), self.loop).result(ASK_S + 0.4)
        except TimeoutError:
            return Report(["the event loop doesn't answer"])
