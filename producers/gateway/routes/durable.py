"""The read half of the Durable Streams protocol: a job's chunks, or its text, as a stream.

See <https://github.com/durable-streams/durable-streams/blob/main/PROTOCOL.md>. A stream is one URL with one
content type, so a job has two.
"""

import json
import random
import re
import time
from contextlib import aclosing
from dataclasses import dataclass
from typing import Self

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from ....schemas.errors import HeadraceError, StreamReset
from ...async_client import progress
from ...progress import JobProgress
from ..auth import Caller
from ..durable import ChunkForm, Form, Offset, Portion, Text, TokenStream
from ..errors import Refusal, retry_after
from ..jobs import progress_of
from ..sse import Events, EventStream
from ..state import Gateway
from ..waiting import ClientGone, while_connected

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])

HEADERS = ("etag", "stream-next-offset", "stream-up-to-date", "stream-closed", "stream-cursor")
"""What a browser's page has to see of a response."""

SESSION_S = 60.0
"""How long one response of server-sent events lasts; the client then comes back for the rest."""

BEHIND_S = 1
"""After how many seconds to try again while the log ends before an offset."""

CUT = b": the gateway is stopping; continue at the last offset\n\n"
LATE = b": there is nothing to read now; try again\n\n"

CACHED = "private, max-age=60, stale-while-revalidate=300"
"""For what can't change. At the tail of an open stream a cache has to ask again."""

_EPOCH_S = 1_728_432_000  # 9 October 2024, from which the protocol counts cursors
_CURSOR_S = 20
_LINE_BREAK = re.compile(r"\r\n|\r|\n")

_LIVE = ("long-poll", "sse")
_ASKED = {
    "parameters": [
        {"name": name, "in": "query", "required": False, "schema": schema}
        for name, schema in (
            ("offset", {"type": "string", "default": "-1"}),
            ("live", {"type": "string", "enum": list(_LIVE)}),
            ("cursor", {"type": "string"}),
        )
    ]
}


@dataclass(frozen=True, slots=True)
class DurableRead:
    """What a request asks for.

    Attributes:
        start: where to begin: an offset, or `-1` for the beginning, or `now` for the tail.
        live: how to go on from there; None is not to wait.
        cursor: the last one that the client was given, or a lower number.
    """

    start: Offset | str
    live: str | None
    cursor: int

    @classmethod
    def of(cls, request: Request) -> Self:
        """What the query says.

        Raises:
            Refusal: 400.
        """
        query = request.query_params
        live, offsets = query.get("live"), query.getlist("offset")
        if live is not None and live not in _LIVE:
            raise _wrong("live", f"must be {' or '.join(_LIVE)}, or be left out.")
        if len(offsets) > 1 or (live is not None and not offsets):
            raise _wrong("offset", "must be given once.")
        text = offsets[0] if offsets else "-1"
        start = text if text in ("-1", "now") else Offset.parse(text)
        if start is None:
            raise _wrong("offset", "must be -1, now, or the Stream-Next-Offset of an earlier response.")
        cursor = query.get("cursor", "")
        return cls(start, live, int(cursor) if re.fullmatch("[0-9]{1,15}", cursor) else -1)


def _wrong(name: str, message: str) -> Refusal:
    return Refusal(400, f"{name}: {message}", code="invalid_parameter", param=name)


async def _get(request: Request, caller: Caller, job_id: str, form: Form) -> Response:
    gateway, asked = Gateway.of(request), DurableRead.of(request)
    now = await progress_of(gateway, caller, job_id)
    stream = TokenStream(gateway.client.job(job_id), form)
    try:
        if asked.live == "sse":
            events = _events(stream, now, asked)
            answer = EventStream(gateway, events, cut=CUT, late=lambda _: LATE)
            answer.headers.update({"content-type": "text/event-stream", "cache-control": "private, no-cache"})
            return await answer.begin()
        part = await _first(stream, now, asked)
        if asked.live == "long-poll":
            part = await while_connected(request, stream.wait(part, gateway.settings.gateway_ping_s))
    except StreamReset:
        raise await _unreached(stream, asked.start) from None
    except ClientGone:
        return Response(status_code=499)
    return _answer(request, asked, form, part)


async def _head(request: Request, caller: Caller, job_id: str, form: Form) -> Response:
    gateway = Gateway.of(request)
    now = await progress_of(gateway, caller, job_id)
    stream = TokenStream(gateway.client.job(job_id), form)
    try:
        tail = await stream.tail(now)
    except StreamReset:
        raise await _unreached(stream, "now") from None
    return Response(headers={"content-type": form.media_type, **_place(tail)})


async def _unreached(stream: TokenStream, start: Offset | str) -> Refusal:
    """The answer where the log doesn't reach the start.

    A Redis that was killed may have lost the end of the log, and then the worker sends it again. Only a job
    that was started over, or that has ended before the start, never comes there.
    """
    now = await progress(stream.job)
    if isinstance(start, Offset) and (
        start.restarts != now.restarts or (now.ended and start.tokens > now.offset)
    ):
        message = "offset: the job was started over, or has ended before it; read from -1."
        return Refusal(410, message, code="stream_reset", param="offset")
    message = "offset: the stream doesn't reach that far at the moment; try again."
    return Refusal(503, message, code="stream_behind", param="offset", headers=retry_after(BEHIND_S))


async def _first(stream: TokenStream, now: JobProgress, asked: DurableRead) -> Portion:
    """What the request finds at once."""
    if asked.start == "now":
        return await stream.tail(now)
    start = asked.start if isinstance(asked.start, Offset) else Offset(now.restarts, 0)
    return await stream.read(start, now)


def _answer(request: Request, asked: DurableRead, form: Form, part: Portion) -> Response:
    headers = _place(part)
    if asked.live and not part.closed:
        headers["stream-cursor"] = str(next_cursor(asked.cursor))
    if asked.live and not part.pieces:
        return Response(status_code=204, headers=headers)
    headers["content-type"] = form.media_type
    if asked.start != "now":
        headers["etag"] = f'"{asked.start}:{part.at}{":c" if part.closed else ""}"'
        # The beginning is another one once the job has been started over.
        fixed = isinstance(asked.start, Offset) and (part.closed or not part.up_to_date)
        headers["cache-control"] = CACHED if fixed else "private, no-cache"
        headers["vary"] = "authorization, x-api-key"
        known = request.headers.get("if-none-match", "")
        if headers["etag"] in (each.strip().removeprefix("W/") for each in known.split(",")):
            return Response(status_code=304, headers=headers)
    return Response(form.join(part.pieces).encode(), headers=headers)


def _place(part: Portion) -> dict[str, str]:
    headers = {"stream-next-offset": str(part.at)}
    if part.up_to_date:
        headers["stream-up-to-date"] = "true"
    if part.closed:
        headers["stream-closed"] = "true"
    return headers


async def _events(stream: TokenStream, now: JobProgress, asked: DurableRead) -> Events:
    cursor = next_cursor(asked.cursor)

    def encoded(part: Portion) -> bytes:
        nonlocal cursor
        cursor = max(cursor, next_cursor(-1))
        return event_of(stream.form, part, cursor)

    part = await _first(stream, now, asked)
    yield encoded(part)
    try:
        while not part.up_to_date:
            part = await stream.read(part.at, await progress(stream.job))
            yield encoded(part)
        if part.closed:
            return
        async with aclosing(stream.live(part.at, SESSION_S)) as parts:
            async for part in parts:
                if part.pieces or part.closed:
                    yield encoded(part)
    except HeadraceError:  # the client comes back, and then the status says what is wrong
        return


def event_of(form: Form, part: Portion, cursor: int) -> bytes:
    """One part as a `data` event, if there is any, and its `control` event."""
    control: dict[str, object] = {"streamNextOffset": str(part.at)}
    if part.closed:
        control["streamClosed"] = True
    else:
        control["streamCursor"] = str(cursor)
    if part.up_to_date:
        control["upToDate"] = True
    events = f"event: control\ndata:{json.dumps(control, separators=(',', ':'))}\n\n"
    if part.pieces:
        # A reader strips one space from the start of a line.
        lines = (
            f"data:{' ' if line.startswith(' ') else ''}{line}\n"
            for line in _LINE_BREAK.split(form.join(part.pieces))
        )
        events = f"event: data\n{''.join(lines)}\n{events}"
    return events.encode()


def next_cursor(given: int) -> int:
    """The number of the current interval, or one above the client's, so that no cache answers for ever."""
    now = int(time.time() - _EPOCH_S) // _CURSOR_S
    return now if given < now else given + random.randint(1, 3600 // _CURSOR_S)


@router.get("/{job_id}/chunks", summary="A job's chunks as a durable stream", openapi_extra=_ASKED)
async def get_chunks(job_id: str, request: Request, caller: Caller) -> Response:
    """The events of the job's native stream from an offset on, as JSON; it isn't cancelled by its readers."""
    return await _get(request, caller, job_id, ChunkForm())


@router.head("/{job_id}/chunks", summary="How far the stream of a job's chunks goes")
async def head_chunks(job_id: str, request: Request, caller: Caller) -> Response:
    """Its last offset, and whether it is closed."""
    return await _head(request, caller, job_id, ChunkForm())


@router.get("/{job_id}/text", summary="A job's text as a durable stream", openapi_extra=_ASKED)
async def get_text(job_id: str, request: Request, caller: Caller) -> Response:
    """The generated text from an offset on, and nothing else."""
    return await _get(request, caller, job_id, Text())


@router.head("/{job_id}/text", summary="How far the stream of a job's text goes")
async def head_text(job_id: str, request: Request, caller: Caller) -> Response:
    """Its last offset, and whether it is closed."""
    return await _head(request, caller, job_id, Text())
