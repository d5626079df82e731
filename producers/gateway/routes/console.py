"""`/console`: the page, what it shows, and what an operator can do there."""

from collections.abc import AsyncGenerator
from typing import Annotated

from fastapi import APIRouter, Depends
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from ...operate.async_admin import AsyncAdmin
from ..auth import Operator
from ..console.asked import CancelAsked, DrainAsked, LetterAsked, ReplayAsked, RequeueAsked, read
from ..console.assets import INDEX, assets
from ..console.dashboard import Dashboard
from ..console.events import dashboard_events, job_events, until_stopped
from ..console.same_origin import check_origin
from ..errors import Refusal
from ..state import Gateway

router = APIRouter(prefix="/console", include_in_schema=False)


@router.get("")
async def page(request: Request) -> Response:
    """The page itself, which has nothing to hide."""
    return _asset(request, INDEX)


@router.get("/assets/{name}")
async def asset(name: str, request: Request) -> Response:
    """One of the page's files."""
    return _asset(request, name)


def _asset(request: Request, name: str) -> Response:
    found = assets().get(name)
    if found is None:
        raise Refusal(404, "There is no such URL here.", code="unknown_url")
    known = {tag.strip() for tag in request.headers.get("if-none-match", "").split(",")}
    if found.etag in known:
        return Response(status_code=304, headers=found.headers)
    return Response(found.content, headers=found.headers)


async def _admin(request: Request, _: Operator) -> AsyncAdmin:
    """What operators can do, for a caller that is one and asks from the page itself.

    Raises:
        Refusal: 401 or 403.
    """
    check_origin(request)
    return Gateway.of(request).client.admin


OperatorAdmin = Annotated[AsyncAdmin, Depends(_admin)]
"""What a route of the console's API works with."""


@router.get("/api/overview")
async def overview(request: Request, _: OperatorAdmin) -> Response:
    """Everything that the page shows."""
    return _stream(request, dashboard_events(_dashboard(request)))


@router.get("/api/jobs/{job_id}/stream")
async def follow(job_id: str, request: Request, _: OperatorAdmin) -> Response:
    """Any job's text, from the token that `Last-Event-ID` names."""
    given = request.headers.get("last-event-id", "0")
    if not (given.isascii() and given.isdigit() and len(given) < 10):
        raise Refusal(400, "Last-Event-ID: must be a number of tokens.", code="invalid_last_event_id")
    job = Gateway.of(request).client.job(job_id)
    await job.status()  # there is one
    return _stream(request, job_events(job, int(given)))


def _stream(request: Request, events: AsyncGenerator[bytes]) -> Response:
    lasting = until_stopped(Gateway.of(request), events)
    return StreamingResponse(lasting, media_type="text/event-stream", headers={"x-accel-buffering": "no"})


def _dashboard(request: Request) -> Dashboard:
    dashboard: Dashboard = request.app.state.dashboard
    return dashboard


@router.post("/api/jobs/cancel")
async def cancel(request: Request, _: OperatorAdmin) -> Response:
    """Cancel any job."""
    asked = await read(request, CancelAsked)
    await Gateway.of(request).client.job(asked.id).cancel()
    return _done(request, asked.id)


@router.post("/api/dead/requeue")
async def requeue(request: Request, admin: OperatorAdmin) -> Response:
    """Queue a dead letter's job again."""
    asked = await read(request, RequeueAsked)
    job_id = await admin.requeue_dead_letter(asked.letter(), from_scratch=asked.from_scratch)
    return _done(request, job_id)


@router.post("/api/dead/drop")
async def drop(request: Request, admin: OperatorAdmin) -> Response:
    """Delete a dead letter with its job."""
    asked = await read(request, LetterAsked)
    return _done(request, await admin.drop_dead_letter(asked.letter()))


@router.post("/api/deliveries/replay")
async def replay(request: Request, admin: OperatorAdmin) -> Response:
    """Send a webhook delivery again."""
    asked = await read(request, ReplayAsked)
    await admin.replay_delivery(asked.id)
    return _done(request, asked.id)


@router.post("/api/workers/drain")
async def drain(request: Request, admin: OperatorAdmin) -> Response:
    """Have a worker hand over its jobs and exit."""
    asked = await read(request, DrainAsked)
    worker = await admin.drain_worker(asked.id, finish_s=asked.finish_s)
    return _done(request, worker.id)


def _done(request: Request, name: str) -> Response:
    """The id of what was changed, which open pages show at once."""
    _dashboard(request).refresh()
    return JSONResponse({"id": name})
