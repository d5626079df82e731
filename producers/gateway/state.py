"""What one gateway process has: its settings, its client, and whether it is being stopped."""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from starlette.requests import HTTPConnection, Request

from ...schemas.settings.gateway import GatewaySettings
from ..async_client import AsyncClient
from ..batches.batches import Batches
from ..files.store import FileStore
from ..operate.models import ModelInfo
from .metrics import GatewayMetrics

MODELS_S = 30.0
"""How long the lengths of the models' contexts are taken for granted."""


class Stoppable(Protocol):
    """A stream that is being sent."""

    def stop(self) -> None:
        """End now."""


@dataclass
class Gateway:
    """One gateway process, found by `of(request)`; everything that must outlive it is in Redis.

    Attributes:
        settings: its settings.
        client: one connection pool and one subscription for all requests.
        files, batches: the file store, and the batches that read and write it.
        metrics: its metrics.
        draining: set when it stops: no new connections, and `/readyz` says so.
        stopping: set when what has not ended by then must end.
        streams: the streams that are being sent.
        unlimited: tenants without rates, by until when this is taken for granted.
    """

    settings: GatewaySettings
    client: AsyncClient
    files: FileStore
    batches: Batches
    metrics: GatewayMetrics
    draining: asyncio.Event = field(default_factory=asyncio.Event)
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    streams: set[Stoppable] = field(default_factory=set)
    unlimited: dict[str, float] = field(default_factory=dict)
    _models: dict[str, ModelInfo] = field(default_factory=dict)
    _models_read: float = 0.0

    async def context_tokens(self, model: str) -> int | None:
        """The length of the model's context; None if nobody has served it here."""
        known = await self.model(model)
        return None if known is None else known.context_tokens

    async def model(self, model: str) -> ModelInfo | None:
        """What is known of a model; None if nobody has served it here."""
        now = time.monotonic()
        # A worker may serve the model again with another context, so what is known doesn't hold forever.
        if model not in self._models or now - self._models_read >= MODELS_S:
            models = {each.id: each for each in await self.client.models()}
            adapters = (await self.client.admin.adapters()).values()
            of_adapters = {each.name: models[each.base] for each in adapters if each.base in models}
            self._models, self._models_read = of_adapters | models, now
        return self._models.get(model)

    def cut(self) -> None:
        """End what is still running, because its time to end by itself is over."""
        self.stopping.set()
        for stream in list(self.streams):
            stream.stop()

    @staticmethod
    def add_headers(request: Request, headers: Mapping[str, str]) -> None:
        """Add to the headers of the request's response."""
        request.state.headers = {**getattr(request.state, "headers", {}), **headers}

    @staticmethod
    def of(connection: HTTPConnection) -> "Gateway":
        """The gateway that serves this request."""
        gateway: Gateway = connection.app.state.gateway
        return gateway
