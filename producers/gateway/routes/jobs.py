"""Native jobs: `POST /v1/jobs`, and what became of one."""

from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse

from ....schemas.job import Job
from ..auth import Caller
from ..bodies import read_json
from ..errors import Refusal
from ..jobs import enqueue, status_of
from ..state import Gateway

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])


@router.post("", summary="Enqueue a job", status_code=202)
async def create_job(request: Request, caller: Caller) -> JSONResponse:
    """Enqueue a job with the arguments of `client.enqueue`, in the key's tenant."""
    fields = await read_json(request)
    if "tenant" in fields:
        raise Refusal(400, "tenant: the API key names it; leave it out.", code="invalid_job", param="tenant")
    job = await enqueue(Gateway.of(request), caller, Job.make(**fields, tenant=caller.tenant))
    return JSONResponse({"id": job.id, "object": "job"}, 202, {"location": f"/v1/jobs/{job.id}"})


@router.get("/{job_id}", summary="Where a job is")
async def get_job(job_id: str, request: Request, caller: Caller) -> dict[str, Any]:
    """The job's status."""
    status = await status_of(Gateway.of(request), caller, job_id)
    return {"id": job_id, "object": "job", **status.model_dump(mode="json", exclude={"job_id"})}
