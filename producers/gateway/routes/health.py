"""`/healthz` and `/readyz`."""

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse

from ..readiness import ready
from ..state import Gateway

router = APIRouter(tags=["health"])


@router.get("/healthz", summary="Whether the process runs")
async def healthz() -> JSONResponse:
    """Answer, which says that the process does."""
    return JSONResponse({"ok": True})


@router.get("/readyz", summary="Whether Redis answers and a worker serves something")
async def readyz(request: Request) -> JSONResponse:
    """Say whether requests should be sent here: 200, or 503 with the reasons."""
    report = await ready(Gateway.of(request))
    return JSONResponse(report.body(), 503 if report.problems else 200)
