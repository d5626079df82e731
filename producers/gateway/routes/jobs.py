"""Native jobs: `POST /v1/jobs`, and the state of one."""

from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ....schemas.events import JobState
from ....schemas.wire import WireJob
from ..aliases import HEADER, enqueue_routed
from ..auth import Caller
from ..bodies import aside, body_of, read_json
from ..generation import answer_events, late_failure
from ..jobs import job_of, status_of
from ..native_events import NativeEvents
from ..sse import EventStream, StreamPlace
from ..state import Gateway

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])

_RESULT = {"text", "token_ids", "finish_reason", "logprobs", "usage", "timings", "embedding"}
_SAID = {"content", "reasoning", "tool_calls", "prompt_logprobs", "score"}


@router.post("", summary="Enqueue a job", status_code=202, openapi_extra=body_of("model"))
async def create_job(request: Request, caller: Caller) -> JSONResponse:
    """Enqueue a job with the arguments of `client.enqueue`, in the key's tenant."""
    fields = await read_json(request)
    if (key := request.headers.get("idempotency-key")) is not None:
        fields.setdefault("idempotency_key", key)
    gateway = Gateway.of(request)
    asked = await aside(request, job_of, gateway, caller, fields)

    async def make(_: str) -> list[WireJob]:
        return [asked]

    (job,), model = await enqueue_routed(gateway, caller, fields, make, idempotency_key=asked.idempotency_key)
    gateway.add_headers(request, {HEADER: model})
    return JSONResponse({"id": job.id, "object": "job"}, 202, {"location": f"/v1/jobs/{job.id}"})


@router.get("/{job_id}", summary="Where a job is, and its result once it has one")
async def get_job(job_id: str, request: Request, caller: Caller) -> dict[str, Any]:
    """The job's status; with `result` once it has succeeded."""
    gateway = Gateway.of(request)
    status = await status_of(gateway, caller, job_id)
    body = {"id": job_id, "object": "job", **status.model_dump(mode="json", exclude={"job_id"})}
    if status.state is JobState.SUCCEEDED:
        result = await gateway.client.job(job_id).result()
        said = result.model_dump(mode="json", include=_SAID, exclude_none=True)
        body["result"] = result.model_dump(mode="json", include=_RESULT) | said
    return body


@router.get("/{job_id}/stream", summary="A job's tokens as server-sent events")
async def stream_job(job_id: str, request: Request, caller: Caller) -> Response:
    """Events `chunk` and one `end`; `Last-Event-ID` resumes. The job doesn't mind who reads it."""
    gateway = Gateway.of(request)
    await status_of(gateway, caller, job_id)
    after = StreamPlace.of(request)
    shape = NativeEvents(job_id)
    events = answer_events([gateway.client.job(job_id)], [shape], after, named=True, last=b"")
    return await EventStream(gateway, events, late=late_failure(shape, named=True, last=b"")).begin()


@router.post("/{job_id}/cancel", summary="Cancel a job")
async def cancel_job(job_id: str, request: Request, caller: Caller) -> dict[str, Any]:
    """Cancel it: at once if it waits, within a moment if it runs. `already` says that it had ended."""
    gateway = Gateway.of(request)
    await status_of(gateway, caller, job_id)
    return {"id": job_id, "object": "job", "outcome": await gateway.client.job(job_id).cancel()}
