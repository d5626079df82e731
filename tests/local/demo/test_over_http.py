"""A stream over HTTP, read at two gateways of which one goes away in the middle."""

import asyncio
import json
from collections import deque
from contextlib import AsyncExitStack

import pytest

from headrace.local.demo.over_http import HttpStream
from headrace.local.demo.scene import StreamView
from headrace.schemas.errors import DemoFailed

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"


def sse(place: int, kind: str = "chunk", **data: object) -> bytes:
    return f"id: {place}\nevent: {kind}\ndata: {json.dumps({'type': kind, **data})}\n\n".encode()


def chunk(offset: int) -> bytes:
    return sse(offset, offset=offset, text="x", token_ids=[offset])


class Gateway:
    """Answers one request with these bytes, then closes the connection; keeps the requests."""

    def __init__(self, answer: bytes) -> None:
        self.answer, self.asked, self.url = answer, b"", ""

    async def start(self, stack: AsyncExitStack) -> None:
        server = await stack.enter_async_context(await asyncio.start_server(self._answer, "127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.asked = await reader.readuntil(b"\r\n\r\n")
        writer.write(self.answer)
        writer.close()
        await writer.wait_closed()


async def read(*answers: bytes) -> tuple[HttpStream, list[Gateway]]:
    """Read a stream at gateways that answer so; the first is killed once its first chunk is read."""
    async with AsyncExitStack() as stack:
        gateways = [Gateway(answer) for answer in answers]
        for gateway in gateways:
            await gateway.start(stack)
        stream = HttpStream(StreamView("x"), deque(gateway.url for gateway in gateways), lambda _: 4801)
        async for _ in stream.read("job"):
            stream.kill_gateway()
    return stream, gateways


async def test_it_goes_on_at_the_next_gateway_after_the_last_token_that_has_come():
    first = HEAD + chunk(1) + b": a comment\n\n" + chunk(2) + chunk(3)[:20]
    stream, gateways = await read(first, HEAD + chunk(3) + sse(3, "end", state="succeeded"))
    assert stream.token_ids == [1, 2, 3]
    assert (stream.killed, stream.resumed, stream.view.resumed) == (gateways[0].url, 3, 3)
    assert b"last-event-id" not in gateways[0].asked.lower()
    assert b"last-event-id: 2\r\n" in gateways[1].asked.lower()


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"HTTP/1.1 404 Not Found\r\ncontent-length: 4\r\n\r\ngone", "answered 404: b'gone'"),
        (HEAD + sse(0, "error", error={"message": "Redis is away"}), "Redis is away"),
    ],
)
async def test_a_gateway_that_refuses_ends_the_tour_in_a_sentence(answer, said):
    with pytest.raises(DemoFailed, match=said):
        await read(answer)
