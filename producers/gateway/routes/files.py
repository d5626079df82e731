"""`/v1/files`: the files that batches read and write."""

from collections.abc import AsyncIterator
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import StreamingResponse

from ....schemas.errors import HeadraceError, InvalidJob
from ...files.listing import Order
from ...files.record import StoredFile
from ..auth import Caller
from ..errors import Refusal
from ..ranges import range_of
from ..state import Gateway
from ..uploads import FORM, UploadForm

router = APIRouter(prefix="/v1/files", tags=["files"])


@router.post("", summary="Upload a file", openapi_extra=FORM)
async def create_file(request: Request, caller: Caller) -> dict[str, Any]:
    """Upload a file for batches; it is a form with `file`, `purpose` and perhaps `expires_after`."""
    gateway, form = Gateway.of(request), UploadForm(request)
    files = gateway.files
    policy, most = await gateway.client.admin.tenant(caller.tenant), gateway.settings.max_file_bytes
    written = await files.write(caller.tenant, form.pieces(), most_bytes=most, policy=policy)
    try:
        # Only now, because fields of the form may come after the file.
        purpose = _purpose(form.fields)
        kept_s = _kept_s(form.fields)
        file = await files.keep(written, form.filename or "", purpose, kept_s)
    except (Refusal, HeadraceError):
        await files.discard(written)
        raise
    return file.body()


@router.get("", summary="List the files of the key's tenant")
async def list_files(
    request: Request,
    caller: Caller,
    after: str | None = None,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 1000,
    order: Order = "desc",
    purpose: str | None = None,
) -> dict[str, Any]:
    """OpenAI's list of files, newest first."""
    page = Gateway.of(request).files.page
    files, more = await page(caller.tenant, after=after, limit=limit, order=order, purpose=purpose)
    return listed([file.body() for file in files], more)


@router.get("/{file_id}", summary="Describe one file")
async def get_file(file_id: str, request: Request, caller: Caller) -> dict[str, Any]:
    """OpenAI's file object."""
    return (await Gateway.of(request).files.find(caller.tenant, file_id)).body()


@router.get("/{file_id}/content", summary="Download a file", response_class=StreamingResponse)
async def get_content(file_id: str, request: Request, caller: Caller) -> StreamingResponse:
    """The file's content, as it was uploaded or written, or the part of it that `Range` names."""
    files = Gateway.of(request).files
    file = await files.find(caller.tenant, file_id)
    part = range_of(request, file.bytes)
    pieces = files.read(file, part)
    first = await anext(
        pieces, b""
    )  # what prevents reading is answered as an error, before the response begins

    async def content() -> AsyncIterator[bytes]:
        yield first
        async for piece in pieces:
            yield piece

    return StreamingResponse(
        content(),
        status_code=200 if part is None else 206,
        headers=_headers(file, part),
        media_type="application/octet-stream",
    )


@router.delete("/{file_id}", summary="Delete a file")
async def delete_file(file_id: str, request: Request, caller: Caller) -> dict[str, Any]:
    """Delete the file; a batch that still reads it fails."""
    await Gateway.of(request).files.delete(caller.tenant, file_id)
    return {"id": file_id, "object": "file", "deleted": True}


def listed(items: list[dict[str, Any]], more: bool) -> dict[str, Any]:
    """A page of a list, as OpenAI's API writes it."""
    ids = [item["id"] for item in items]
    first, last = (ids[0], ids[-1]) if ids else (None, None)
    return {"object": "list", "data": items, "first_id": first, "last_id": last, "has_more": more}


def _headers(file: StoredFile, part: range | None) -> dict[str, str]:
    name = quote(file.filename, safe="")
    headers = {
        "accept-ranges": "bytes",
        "content-length": str(file.bytes if part is None else len(part)),
        "content-disposition": f"attachment; filename*=UTF-8''{name}",
    }
    if part is not None:
        headers["content-range"] = f"bytes {part.start}-{part.stop - 1}/{file.bytes}"
    return headers


def _purpose(fields: dict[str, str]) -> str:
    if "purpose" not in fields:
        raise InvalidJob("purpose", "is missing; for the input of a batch it is 'batch'")
    if fields["purpose"] == "batch_output":
        raise InvalidJob("purpose", "'batch_output' is for what batches write")
    return fields["purpose"]


def _kept_s(fields: dict[str, str]) -> int | None:
    anchor, seconds = fields.get("expires_after[anchor]"), fields.get("expires_after[seconds]")
    if anchor is None and seconds is None:
        return None
    if anchor != "created_at":
        raise InvalidJob("expires_after", "anchor must be 'created_at'")
    if seconds is None or not (seconds.isascii() and seconds.isdecimal() and len(seconds) < 12):
        raise InvalidJob("expires_after", "seconds must be a whole number")
    return int(seconds)
