"""A chat completion or a completion as jobs: enqueued, streamed, resumed, awaited.

A stream's events depend only on its jobs' token logs, and each names its place there. A client that returns
with the id of the last one, to this gateway or another, gets exactly the events after it.
"""

import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Protocol

from starlette.requests import Request
from starlette.responses import Response

from ...schemas.errors import HeadraceError
from ...schemas.events import Chunk, JobResult
from ...schemas.keys import tag_of
from ...schemas.wire import WireJob
from ..async_client import AsyncJobHandle, new_result, ready_chunks
from .aliases import HEADER, enqueue_routed
from .answers import answer_of
from .auth import Access
from .bodies import aside
from .errors import Refusal
from .jobs import job_of
from .limits import note_limits
from .sse import STOPPED, Events, EventStream, StreamPlace, event, json_event, portions, together
from .state import Gateway
from .waiting import ClientGone, while_connected

DONE = event("[DONE]")

USUAL_MAX_TOKENS = 4096
"""Used for a model whose context isn't known."""

Placed = tuple[StreamPlace, list[dict[str, Any]]]
"""Objects of a stream, the last of which has this place."""

CUT = STOPPED + event(
    json.dumps(Refusal(503, "The gateway is stopping; send the request again.", code="gateway_stopping").body)
)
"""Clients that don't know `Last-Event-ID` must not mistake a stream that was cut for a complete one."""


class ChoiceEvents(Protocol):
    """The objects of one choice's stream; see `producers/openai`."""

    def start(self) -> list[dict[str, Any]]:
        """The objects before any token."""
        ...

    def chunk(self, chunk: Chunk, /) -> list[dict[str, Any]]:
        """The objects for a chunk of the job's stream."""
        ...

    def end(self, result: JobResult, /) -> list[dict[str, Any]]:
        """The objects after the last token."""
        ...

    def failed(self, error: HeadraceError, /) -> list[dict[str, Any]]:
        """The objects at the end of a job that didn't succeed."""
        ...


@dataclass(frozen=True, slots=True)
class Generation:
    """The jobs behind one answer.

    Attributes:
        gateway: the process that answers.
        jobs: one for each choice.
        keep: whether they continue when the client goes away.
        new: whether they have just been enqueued.
    """

    gateway: Gateway
    jobs: Sequence[AsyncJobHandle]
    keep: bool
    new: bool = False

    @property
    def model(self) -> str:
        """The model that generates, which a job's id names."""
        return tag_of(self.jobs[0].id).model

    async def cancel(self) -> None:
        """Cancel jobs that no client wants any more."""
        if not self.keep:
            await cancel_all(self.jobs)

    async def results(self, request: Request) -> list[JobResult]:
        """The results, for as long as the client waits.

        Raises:
            ClientGone: the client has disconnected.
            Refusal, HeadraceError: there is no result.
        """
        wait_s = self.gateway.settings.gateway_wait_s
        try:
            # Read again, they are likely to have ended already.
            read = new_result if self.new else AsyncJobHandle.result
            return [await while_connected(request, read(job, wait_s)) for job in self.jobs]
        except (ClientGone, Refusal, HeadraceError):
            await self.cancel()
            raise

    async def answer(self, request: Request, body: Callable[[list[JobResult]], dict[str, Any]]) -> Response:
        """The whole answer."""
        try:
            return await answer_of(await self.results(request), body)
        except ClientGone:
            return Response(status_code=499)

    async def stream(
        self, request: Request, shapes: Sequence[ChoiceEvents], *, named: bool = False, cut: bytes = CUT
    ) -> Response:
        """The answer as a stream, continued from where the client was.

        Args:
            request: says where the client was.
            shapes: one for each job.
            named: events are named by their objects' `type`, of which the last ends the stream.
            cut: what is sent last when the gateway stops.
        """
        after, last = StreamPlace.of(request), b"" if named else DONE
        events = answer_events(self.jobs, shapes, after, named=named, last=last)
        late = late_failure(shapes[0], named=named, last=last)
        return await EventStream(self.gateway, events, self.cancel, cut, late=late).begin()


async def begin(
    request: Request,
    caller: Access,
    fields: Sequence[Mapping[str, Any]],
    *,
    store: bool,
    max_tokens: int | None = None,
    cache_key: object = None,
    jobs_for: Callable[[str], Awaitable[Sequence[Mapping[str, Any]]]] | None = None,
) -> Generation:
    """Enqueue the jobs of one request.

    With an `Idempotency-Key`, a repeated request finds the first one's jobs, so these are kept if the client
    goes away, like those of `store`.

    Args:
        request: says by which key a repeated one is known.
        caller: whose jobs they become.
        fields: arguments of a job, for each.
        store: keep the jobs if the client goes away.
        max_tokens: the most that jobs generate which don't say so; None for all that the model's context has
            room for and `default_max_tokens` allows.
        cache_key: what the request says about the cache of its prompt.
        jobs_for: makes the arguments of each job for the model that answers, if that depends on the model;
            `fields` are then what they have in common.

    Raises:
        Refusal, HeadraceError: they can't all be enqueued; none of them is left.
    """
    gateway = Gateway.of(request)
    key = request.headers.get("idempotency-key")
    again = key if key is not None else fields[0].get("idempotency_key")
    model = ""

    async def make(chosen: str) -> list[WireJob]:
        nonlocal model
        model = chosen
        usual = max_tokens
        if usual is None:
            usual = await gateway.context_tokens(chosen) or USUAL_MAX_TOKENS
            usual = min(usual, gateway.settings.default_max_tokens or usual)
        asked = [dict(each) for each in (fields if jobs_for is None else await jobs_for(chosen))]
        for number, each in enumerate(asked):
            own = each.get("idempotency_key") if key is None else key
            if isinstance(own, str):  # otherwise the job says what is wrong with it
                each["idempotency_key"] = own if len(asked) == 1 else f"{own}#{number}"
        return [await aside(request, job_of, gateway, caller, each, usual) for each in asked]

    try:
        accepted, chosen = await enqueue_routed(
            gateway, caller, fields[0], make, cache_key=cache_key, idempotency_key=again
        )
        model = tag_of(accepted[0].id).model  # whose limits count: an adapter's base
    finally:
        if model:
            await note_limits(request, caller, model)
    gateway.add_headers(request, {HEADER: chosen})
    return Generation(gateway, accepted, store or key is not None, new=True)


async def cancel_all(jobs: Sequence[AsyncJobHandle]) -> None:
    """Cancel the jobs that have not ended."""
    for job in jobs:
        try:
            await job.cancel()
        except HeadraceError:  # it is gone, or Redis is: its deadline or its length ends it
            continue


@dataclass(slots=True)
class _ChoiceReader:
    """One choice's events, with their places."""

    job: AsyncJobHandle
    shape: ChoiceEvents
    at: StreamPlace = field(default_factory=lambda: StreamPlace(0))
    begun: bool = False

    async def read(self, had: int) -> AsyncGenerator[list[Placed]]:
        """The events that are ready, a write's worth at a time; the client has had this many tokens."""
        try:
            async with aclosing(ready_chunks(self.job)) as ready:
                async for chunks in ready:
                    for some in portions(divided(chunks, had)):
                        yield self._start() + [self._placed(chunk) for chunk in some]
            result = await self.job.result()
        except HeadraceError as error:
            if not self.begun:
                raise
            yield [(self._next(), self.shape.failed(error))]
            return
        yield self._start() + [(self._next(), [last]) for last in self.shape.end(result)]

    def _start(self) -> list[Placed]:
        if self.begun:
            return []
        self.begun = True
        return [(StreamPlace(0), self.shape.start())]

    def _placed(self, chunk: Chunk) -> Placed:
        self.at = StreamPlace(chunk.offset) if chunk.token_ids else self._next()
        return self.at, self.shape.chunk(chunk)

    def _next(self) -> StreamPlace:
        self.at = StreamPlace(self.at.tokens, self.at.tail + 1)
        return self.at


def divided(chunks: Iterable[Chunk], offset: int) -> Iterator[Chunk]:
    """The chunks, of which the one that the offset is within comes in two.

    A client stands within a chunk when Redis was killed and lost the chunk that the client has: the worker
    generates the same tokens again, and may publish them in other portions.
    """
    for chunk in chunks:
        if chunk.start < offset < chunk.offset:
            yield from chunk.split(offset)
        else:
            yield chunk


async def answer_events(
    jobs: Sequence[AsyncJobHandle],
    shapes: Sequence[ChoiceEvents],
    after: StreamPlace | None,
    *,
    named: bool = False,
    last: bytes = DONE,
) -> Events:
    """The events of all choices, one choice after the other, while all of them are computed.

    Args:
        jobs: a job for each choice.
        shapes: the form of each choice's events.
        after: send only what comes after this place.
        named: name each event by its object's `type`.
        last: what comes after the last event.
    """
    had = after.tokens if after is not None else 0
    for job, shape in zip(jobs, shapes, strict=True):
        async with aclosing(_ChoiceReader(job, shape).read(had)) as lists:
            async for placed in lists:
                ready: list[bytes] = []
                for place, objects in placed:
                    if after is not None and place <= after:
                        continue
                    for left, each in enumerate(objects, 1 - len(objects)):
                        event_id = place if left == 0 and len(jobs) == 1 else None
                        ready.append(_encoded(each, event_id, named=named))
                for data in together(ready):
                    yield data
    if last:
        yield last


def late_failure(
    shape: ChoiceEvents, *, named: bool = False, last: bytes = DONE
) -> Callable[[HeadraceError], bytes]:
    """What a stream says of a job that failed before its first token, but after the response began."""

    def encode(error: HeadraceError) -> bytes:
        events = [_encoded(each, StreamPlace(0, 1), named=named) for each in shape.failed(error)]
        return b"".join(events) + last

    return encode


def _encoded(each: dict[str, Any], place: StreamPlace | None, *, named: bool) -> bytes:
    return json_event(each, event_id=place, name=each["type"] if named else None)
