"""`/v1/responses`: created, streamed, read again, continued, cancelled and deleted.

The events of a stream are numbered by the token log, so a stream that broke goes on at any gateway: with
`GET …?stream=true&starting_after=N`, or with the `Last-Event-ID` that browsers send.
"""

from contextlib import aclosing
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ....schemas.errors import HeadraceError, JobNotFound
from ...async_client import ready_chunks
from ...openai.responses.items import page_of_items
from ...openai.responses.request import ResponseRequest, previous_response_id, response_request
from ...openai.responses.stream import ResponseStream, token_of
from ...operate.responses import StoredResponse
from ..auth import Caller
from ..bodies import aside, body_of, read_json
from ..errors import not_found
from ..generation import Generation, begin, divided
from ..sse import Events, EventStream, StreamPlace, json_event, portions, together
from ..state import Gateway
from ..stored import UNANSWERED, Kept, earlier_items, find
from ..waiting import ClientGone

router = APIRouter(prefix="/v1/responses", tags=["responses"])

CANCEL_S = 10.0
"""How long a cancelled response may take to end before it is shown in its current state."""


@router.post("", summary="Create a response", openapi_extra=body_of("input", "model"))
async def create_response(request: Request, caller: Caller) -> Response:
    """Answer, whole or streamed; in the background, answer at once and generate meanwhile."""
    gateway = Gateway.of(request)
    body = await read_json(request)
    earlier = await earlier_items(gateway, caller, previous_response_id(body))
    asked = await aside(request, response_request, body, earlier)
    job = {**asked.job, "stream": asked.stream}
    # As for chats: an answer ends with its context, if nothing else ends it.
    cache_key = body.get("prompt_cache_key")
    generation = await begin(request, caller, [job], store=asked.store, cache_key=cache_key)
    kept = await _keep(generation, asked, caller.tenant)
    if asked.stream:
        return await _stream(request, kept, generation, asked.store)
    if asked.background:
        return JSONResponse(await kept.body())
    try:
        (result,) = await generation.results(request)
    except ClientGone:
        return Response(status_code=499)
    answer = kept.response.ended(result)
    if asked.store:
        await kept.settle(answer)
    return JSONResponse(answer)


async def _keep(generation: Generation, asked: ResponseRequest, tenant: str) -> Kept:
    (job,) = generation.jobs
    echo = asked.echo | {"model": generation.model}
    stored = StoredResponse(tenant=tenant, echo=echo, items=asked.items)
    kept = Kept(generation.gateway, job.id, stored)
    if asked.store:
        try:
            await kept.keep()
        except HeadraceError:
            await job.cancel()
            raise
    return kept


@router.get("/{response_id}", summary="Read a stored response, or go on with its stream")
async def get_response(
    response_id: str,
    request: Request,
    caller: Caller,
    stream: bool = False,
    starting_after: int = -1,
) -> Response:
    """The response's current state or, as a stream, its events after the one with this number."""
    gateway = Gateway.of(request)
    kept = await find(gateway, caller, response_id)
    if not stream:
        return JSONResponse(await kept.body())
    job = gateway.client.job(kept.job_id)
    try:
        await job.status()
    except JobNotFound:
        raise not_found("stream of a response", response_id) from None
    generation = Generation(gateway, [job], keep=True)
    return await _stream(request, kept, generation, store=True, after=starting_after)


@router.post("/{response_id}/cancel", summary="Cancel a response")
async def cancel_response(response_id: str, request: Request, caller: Caller) -> dict[str, Any]:
    """Cancel the response and return it; one that has ended doesn't change."""
    gateway = Gateway.of(request)
    kept = await find(gateway, caller, response_id)
    if kept.stored.answer is None:
        await gateway.client.job(kept.job_id).cancel()
    return await kept.body(CANCEL_S)


@router.delete("/{response_id}", summary="Delete a stored response")
async def delete_response(response_id: str, request: Request, caller: Caller) -> dict[str, Any]:
    """Delete the response, which can then be neither read nor continued; its generation ends."""
    gateway = Gateway.of(request)
    kept = await find(gateway, caller, response_id)
    await gateway.client.admin.drop_response(kept.job_id)
    if kept.stored.answer is None:
        await Generation(gateway, [gateway.client.job(kept.job_id)], keep=False).cancel()
    return {"id": response_id, "object": "response", "deleted": True}


@router.get("/{response_id}/input_items", summary="List the input of a stored response")
async def list_input_items(
    response_id: str,
    request: Request,
    caller: Caller,
    after: str | None = None,
    limit: int = 20,
    order: str = "desc",
) -> dict[str, Any]:
    """The conversation up to the answer, without the instructions, in pages."""
    kept = await find(Gateway.of(request), caller, response_id)
    return page_of_items(kept.job_id, kept.stored.items, after=after, limit=limit, order=order)


async def _stream(
    request: Request, kept: Kept, generation: Generation, store: bool, after: int = -1
) -> EventStream:
    if (place := StreamPlace.of(request)) is not None:
        after = max(after, place.tokens)
    events = _events(kept, after, store)
    return await EventStream(generation.gateway, events, generation.cancel).begin()


async def _events(kept: Kept, after: int, store: bool) -> Events:
    """The events after a number. The whole log is read, since later ones hold the whole text."""
    job, stream = kept.gateway.client.job(kept.job_id), ResponseStream(kept.response)
    for data in _written(stream.start(), after):
        yield data
    try:
        async with aclosing(ready_chunks(job)) as ready:
            async for chunks in ready:
                for some in portions(divided(chunks, token_of(after))):
                    for data in _written([each for chunk in some for each in stream.chunk(chunk)], after):
                        yield data
        ending = stream.end(await job.result())
    except UNANSWERED as error:
        ending = stream.failed(error)
    except HeadraceError as error:
        for data in _written(stream.interrupted(error), -1):
            yield data
        return
    if store:
        await kept.settle(ending[-1]["response"])
    for data in _written(ending, after):
        yield data


def _written(events: list[dict[str, Any]], after: int) -> list[bytes]:
    return together(
        [
            json_event(each, event_id=each["sequence_number"], name=each["type"])
            for each in events
            if each["sequence_number"] > after
        ]
    )
