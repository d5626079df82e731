"""A Durable Streams server in front of a gateway, which adds the half that a queue doesn't have: writing.

The protocol's own suite makes its streams with PUT and POST. Here a PUT enqueues a job and claims it, and
each message of a POST becomes a token of that job, by the scripts that workers call. GET, HEAD and OPTIONS go
to the gateway, and its answers come back as they are, but for two things: the content type is spelt as the
stream was made, and a JSON stream's messages are taken out of the chunks that carry them as text.
"""

import json
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field

import httpx
import uvicorn
from redis import Redis
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from headrace.producers.gateway.server import listen
from headrace.schemas.events import End, JobState, Output, chunk_payload
from headrace.schemas.ids import new_job_id
from headrace.schemas.keys import Tag
from headrace.schemas.scripts import ClaimedJob, ClaimRequest, Segment, advance, claim, enqueue, finish, run
from headrace.schemas.settings.queue import QueueSettings
from headrace.schemas.wire import WireJob

from .waiting import WAIT_S

TAG = Tag("m")
HOUR_MS = 3_600_000
NO_STREAM = new_job_id(TAG.model)
PASSED = ("connection", "content-length", "content-type", "date", "keep-alive", "server", "transfer-encoding")
"""Headers of a response that its server makes."""


@dataclass
class WrittenStream:
    """One stream, and the job that it is."""

    redis: Redis
    job: ClaimedJob
    content_type: str
    tokens: int = 0
    closed: bool = False

    @property
    def is_json(self) -> bool:
        return self.content_type.startswith("application/json")

    def messages(self, body: bytes) -> list[str]:
        """The messages of a body.

        Raises:
            ValueError: it isn't JSON, and should be, or has none.
        """
        if not self.is_json:
            return [body.decode()] if body else []
        value = json.loads(body)
        values = value if isinstance(value, list) else [value]
        return [json.dumps(each, ensure_ascii=False) for each in values]

    def write(self, messages: list[str], *, close: bool) -> None:
        """Publish a token for each message, and with the last one the end, if that is asked for."""
        last = len(messages) - 1
        for number, message in enumerate(messages):
            if close and number == last:
                self._end(message)
            else:
                (told,) = run(self.redis, advance(TAG, HOUR_MS, [self._segment(message)]))
                assert told.status == "ok", told
        if close and not messages:
            self._end(None)

    def _segment(self, message: str | None) -> Segment:
        start, self.tokens = self.tokens, self.tokens + (message is not None)
        payload = "" if message is None else chunk_payload(self.tokens, [message], [1], None)
        return Segment(self.job.job_id, self.job.fence, start, self.tokens, payload)

    def _end(self, message: str | None) -> None:
        self.closed = True
        segment = self._segment(message)
        end = End(offset=self.tokens, end=JobState.SUCCEEDED, finish_reason="stop")
        output = Output(token_ids=(1,) * self.tokens, finish_reason="stop")
        told = run(self.redis, finish(TAG, segment, end, output))
        assert told.status == "ok", told


@dataclass
class DurableServer:
    """The server's state: a stream for each path."""

    redis: Redis
    gateway: httpx.AsyncClient
    streams: dict[str, WrittenStream] = field(default_factory=dict)

    async def handle(self, request: Request) -> Response:
        """Answer one request."""
        stream = self.streams.get(request.url.path)
        match request.method:
            case "PUT":
                return await self._make(request)
            case "POST":
                return await self._append(request, stream)
            case "DELETE":
                gone = self.streams.pop(request.url.path, None)
                return self._told(204 if gone else 404)
        return await self._read(request, stream)

    async def _make(self, request: Request) -> Response:
        path = request.url.path
        kind = request.headers.get("content-type", "application/octet-stream")
        if path in self.streams:
            return self._told(200 if kind == self.streams[path].content_type else 409)
        if not kind.startswith(("text/", "application/json", "application/octet-stream")):
            return self._told(415)
        asked = WireJob.make(model=TAG.model, max_tokens=10_000, prompt_token_ids=[1])
        run(self.redis, enqueue(TAG, new_job_id(TAG.model), asked, QueueSettings()))
        taking = ClaimRequest("w", nonce="n", lease_ms=HOUR_MS, budget_tokens=10**9, slots=10**6)
        (job,) = run(self.redis, claim(TAG, taking)).jobs
        stream = self.streams[path] = WrittenStream(self.redis, job, kind)
        body = await request.body()
        stream.write(stream.messages(body) if body else [], close=_closes(request))
        return self._told(201, await self._tail(stream) | {"location": str(request.url)})

    async def _append(self, request: Request, stream: WrittenStream | None) -> Response:
        body, close = await request.body(), _closes(request)
        if stream is None:
            return self._told(404)
        if stream.closed:
            return self._told(409 if body else 204, await self._tail(stream))
        if not body and not close:
            return self._told(400)
        if body and request.headers.get("content-type", "").lower() != stream.content_type.lower():
            return self._told(409)
        try:
            messages = stream.messages(body) if body else []
        except ValueError:
            return self._told(400)
        if body and not messages:
            return self._told(400)
        stream.write(messages, close=close)
        return self._told(204, await self._tail(stream))

    def _told(self, status: int, headers: dict[str, str] | None = None) -> Response:
        return Response(status_code=status, headers={"x-content-type-options": "nosniff"} | (headers or {}))

    async def _tail(self, stream: WrittenStream) -> dict[str, str]:
        told = await self.gateway.head(self._url(stream))
        assert told.status_code == 200
        return {name: told.headers[name] for name in told.headers if name.startswith("stream-")}

    def _url(self, stream: WrittenStream | None) -> str:
        if stream is None:
            return f"/v1/jobs/{NO_STREAM}/text"
        return f"/v1/jobs/{stream.job.job_id}/{'chunks' if stream.is_json else 'text'}"

    async def _read(self, request: Request, stream: WrittenStream | None) -> Response:
        asked = self.gateway.build_request(
            request.method,
            f"{self._url(stream)}?{request.url.query}",
            headers=[each for each in request.headers.raw if each[0] not in (b"host", b"accept-encoding")],
        )
        answer = await self.gateway.send(asked, stream=True)
        headers = {name: value for name, value in answer.headers.items() if name not in PASSED}
        kind = answer.headers.get("content-type")
        if stream is not None and kind and kind.split(";")[0] == stream.content_type.split(";")[0]:
            kind = stream.content_type
        if kind:
            headers["content-type"] = kind
        if kind == "text/event-stream":
            events = _events(answer, unpack=stream is not None and stream.is_json)
            return StreamingResponse(events, answer.status_code, headers)
        body = await answer.aread()
        await answer.aclose()
        if answer.status_code == 200 and body and stream is not None and stream.is_json:
            body = json.dumps(_unpacked(body)).encode()
        return Response(body, answer.status_code, headers)


def _closes(request: Request) -> bool:
    return request.headers.get("stream-closed", "").lower() == "true"


def _unpacked(body: bytes | str) -> list[object]:
    return [json.loads(each["text"]) for each in json.loads(body) if each["type"] == "chunk"]


async def _events(answer: httpx.Response, *, unpack: bool) -> AsyncIterator[bytes]:
    try:
        if not unpack:
            async for data in answer.aiter_raw():
                yield data
            return
        ready = event = ""
        async for line in answer.aiter_lines():
            event += f"{line}\n"
            if line:
                continue
            if event.startswith("event: data\ndata:"):
                messages = _unpacked(event.removeprefix("event: data\ndata:"))
                event = f"event: data\ndata:{json.dumps(messages)}\n\n" if messages else ""
            ready += event
            if ready and not event.startswith("event: data"):  # which goes with its control event, as it came
                yield ready.encode()
                ready = ""
            event = ""
    finally:
        await answer.aclose()


@contextmanager
def durable_server(redis: Redis, gateway_url: str) -> Iterator[str]:
    """Serve while the context lasts; gives the URL below which every path is a stream."""

    limits = httpx.Limits(max_connections=None)
    gateway = httpx.AsyncClient(base_url=gateway_url, timeout=60, limits=limits)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with gateway:
            yield

    methods = ["GET", "HEAD", "OPTIONS", "PUT", "POST", "DELETE"]
    every = Route("/{path:path}", DurableServer(redis, gateway).handle, methods=methods)
    app = Starlette(routes=[every], lifespan=lifespan)
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=1))
    with listen("127.0.0.1", 0) as listening:
        thread = threading.Thread(target=lambda: server.run(sockets=[listening]), name="durable")
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(WAIT_S)
    assert not thread.is_alive()
