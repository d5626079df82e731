"""What one gateway process has: its settings, its client, and whether it is being stopped."""

import asyncio
from dataclasses import dataclass, field

from starlette.requests import HTTPConnection

from ...schemas.settings.gateway import GatewaySettings
from ..async_client import AsyncClient
from ..batches.batches import Batches
from ..files.store import FileStore
from .metrics import GatewayMetrics


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
    """

    settings: GatewaySettings
    client: AsyncClient
    files: FileStore
    batches: Batches
    metrics: GatewayMetrics
    draining: asyncio.Event = field(default_factory=asyncio.Event)
    stopping: asyncio.Event = field(default_factory=asyncio.Event)

    @staticmethod
    def of(connection: HTTPConnection) -> "Gateway":
        """The gateway that serves this request."""
        gateway: Gateway = connection.app.state.gateway
        return gateway
