"""The gateway as an ASGI application."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

from ...schemas.errors import HeadraceError
from ...schemas.settings.gateway import GatewaySettings
from ..async_client import AsyncClient
from ..batches.batches import Batches
from ..batches.runner import BatchRunner
from ..files.store import FileStore
from .console.sources import dashboard_of
from .errors import Refusal, answer
from .guard import Guard
from .metrics import GatewayMetrics
from .routes import (
    adapters,
    batches,
    chat,
    completions,
    console,
    durable,
    embeddings,
    files,
    health,
    jobs,
    messages,
    models,
    responses,
    scores,
    tokens,
)
from .state import Gateway

ROUTERS = (
    health.router,
    models.router,
    adapters.router,
    jobs.router,
    durable.router,
    chat.router,
    completions.router,
    embeddings.router,
    scores.router,
    responses.router,
    messages.router,
    tokens.router,
    files.router,
    batches.router,
    console.router,
)


CORS_HEADERS = ("authorization", "content-type", "idempotency-key", "if-none-match", "last-event-id")
"""What pages of the allowed origins may send."""


def create_app(settings: GatewaySettings, client: AsyncClient) -> FastAPI:
    """Make the gateway's application; it closes `client` when it ends."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with client:
            running = asyncio.create_task(runner.run(), name="headrace-batches")
            yield
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    store = FileStore(client, settings)
    runner = BatchRunner(client, store, settings)
    gateway = Gateway(settings, client, store, Batches(client, store), GatewayMetrics())
    app = FastAPI(
        title="headrace",
        version=version("headrace"),
        lifespan=lifespan,
        docs_url=None,  # they load scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.gateway = gateway
    app.state.dashboard = dashboard_of(client, gateway.batches)
    for kind in (Refusal, HeadraceError, RequestValidationError, HTTPException):
        app.add_exception_handler(kind, answer)
    for router in ROUTERS:
        app.include_router(router)
    if settings.gateway_cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(settings.gateway_cors_origins),
            allow_methods=["GET", "HEAD", "POST", "DELETE"],
            allow_headers=[*CORS_HEADERS],
            expose_headers=["x-request-id", "x-headrace-model", "retry-after", *durable.HEADERS],
        )
    app.add_middleware(Guard, gateway=gateway)
    return app
