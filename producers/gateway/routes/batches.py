"""`/v1/batches`: files of requests that are answered within a day."""

from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError
from starlette.requests import Request

from ....schemas.errors import InvalidJob
from ....schemas.job import JobClass, Webhook
from ....schemas.wording import in_words
from ...batches.record import batch_spec
from ..auth import Caller
from ..bodies import body_of, read_json
from ..errors import Refusal
from ..state import Gateway
from .files import listed

router = APIRouter(prefix="/v1/batches", tags=["batches"])

_Short = Annotated[str, Field(max_length=64)]
_Long = Annotated[str, Field(max_length=512)]


class _Expiry(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    anchor: Annotated[str, Field(pattern="^created_at$")]
    seconds: Annotated[int, Field(ge=3600, le=2_592_000)]


class _Receiver(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    url: Annotated[str, Field(max_length=2048)]
    secret: _Long | None = None


class _BatchRequest(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    endpoint: _Long
    input_file_id: _Long
    completion_window: _Short
    metadata: Annotated[dict[_Short, _Long], Field(max_length=16)] | None = None
    output_expires_after: _Expiry | None = None
    webhook: _Receiver | None = None


@router.post(
    "",
    summary="Make a batch",
    openapi_extra=body_of("completion_window", "endpoint", "input_file_id"),
)
async def create_batch(request: Request, caller: Caller) -> dict[str, Any]:
    """Make a batch of an uploaded file."""
    body = await read_json(request)
    try:
        asked = _BatchRequest.model_validate(body)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise InvalidJob(".".join(map(str, first["loc"])), in_words(first)) from None
    if JobClass.BATCH not in caller.classes:
        raise Refusal(403, "This API key may not run batches.", code="class_not_allowed")
    webhook = None
    if asked.webhook is not None:
        secret = asked.webhook.secret
        webhook = Webhook(
            url=asked.webhook.url, secret=None if secret is None else SecretStr(secret), payload="openai"
        )
        caller.check_webhook(webhook.url)
    expiry = asked.output_expires_after
    wanted = batch_spec(
        caller.tenant,
        asked.endpoint,
        asked.input_file_id,
        asked.completion_window,
        metadata=asked.metadata,
        # As the key is now: it may be revoked before the lines run, which ends nothing that it began.
        models=None if caller.models is None else tuple(sorted(caller.models)),
        output_kept_s=expiry.seconds if expiry else None,
        webhook=webhook,
    )
    return (await Gateway.of(request).batches.create(wanted)).body()


@router.get("", summary="List the batches of the key's tenant")
async def list_batches(
    request: Request,
    caller: Caller,
    after: str | None = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> dict[str, Any]:
    """OpenAI's list of batches, newest first."""
    batches, more = await Gateway.of(request).batches.page(caller.tenant, after=after, limit=limit)
    return listed([batch.body() for batch in batches], more)


@router.get("/{batch_id}", summary="How far a batch is")
async def get_batch(batch_id: str, request: Request, caller: Caller) -> dict[str, Any]:
    """OpenAI's batch object."""
    return (await Gateway.of(request).batches.find(caller.tenant, batch_id)).body()


@router.post("/{batch_id}/cancel", summary="Cancel a batch")
async def cancel_batch(batch_id: str, request: Request, caller: Caller) -> dict[str, Any]:
    """Cancel the batch: what has been answered is kept, and the other lines become errors."""
    return (await Gateway.of(request).batches.cancel(caller.tenant, batch_id)).body()
