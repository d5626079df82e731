"""A Redis that refuses: a proxy which answers chosen commands with an error in Redis's place."""

import asyncio
import threading
from collections.abc import Iterable
from contextlib import suppress

CONSUMING = {"BRPOP", "SUBSCRIBE", "PSUBSCRIBE", "SMEMBERS"}
TELLING = {"PUBLISH", "LPUSH", "SADD", "HSET", "EVALSHA", "ZADD"}


class Refusals:
    """Passes commands on to a Redis, and answers some itself, in a thread of its own, until it is closed.

    Attributes:
        port: where it listens.
        count: how often it has refused.
    """

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self._error, self._commands = "", frozenset[str]()
        self.count = 0
        self._loop = asyncio.new_event_loop()
        self._changed = asyncio.Event()
        self._stop = asyncio.Event()
        self._connections: set[asyncio.Task[None]] = set()
        started = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(started,), daemon=True)
        self._thread.start()
        started.wait()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def refuse(self, error: str, commands: Iterable[str] = ()) -> None:
        """Answer these commands so, those under way too; without any, all commands."""
        self._error, self._commands = error, frozenset(commands)
        self._loop.call_soon_threadsafe(self._tell)

    def disconnect(self) -> None:
        """End all connections; whoever comes again may."""
        self._loop.call_soon_threadsafe(lambda: [task.cancel() for task in self._connections])

    def relent(self) -> None:
        """Refuse nothing any more."""
        self._error = ""

    def close(self) -> None:
        """End it with all its connections."""
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        self._loop.close()

    def _run(self, started: threading.Event) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._serve(started))

    async def _serve(self, started: threading.Event) -> None:
        async def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            self._connections.add(task)
            with suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
                await self._pass(reader, writer)
            writer.close()
            self._connections.discard(task)

        server = await asyncio.start_server(accepted, "127.0.0.1", 0)
        self.port: int = server.sockets[0].getsockname()[1]
        started.set()
        await self._stop.wait()
        server.close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        await asyncio.sleep(0)  # a socket closes in the turn after

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def _refuses(self, command: str) -> bool:
        return bool(self._error) and (not self._commands or command in self._commands)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream, up = await asyncio.open_connection("127.0.0.1", self._target_port)
        pushes: asyncio.Task[None] | None = None
        try:
            while True:
                command, raw = await _command(reader)
                if self._refuses(command):
                    self._refuse(writer)
                    continue
                up.write(raw)
                if pushes is not None or command in {"SUBSCRIBE", "PSUBSCRIBE"}:
                    pushes = pushes or asyncio.create_task(_pump(upstream, writer))
                elif not await self._answer(command, upstream, writer):
                    return
        finally:
            if pushes is not None:
                pushes.cancel()
            up.close()

    async def _answer(
        self, command: str, upstream: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        """Pass the reply on; False where the command was refused while it was under way."""
        reply = asyncio.create_task(_reply(upstream))
        while not reply.done():
            changed = asyncio.create_task(self._changed.wait())
            await asyncio.wait({reply, changed}, return_when=asyncio.FIRST_COMPLETED)
            changed.cancel()
            if not reply.done() and self._refuses(command):
                reply.cancel()
                self._refuse(writer)
                return False
        writer.write(reply.result())
        return True

    def _refuse(self, writer: asyncio.StreamWriter) -> None:
        self.count += 1
        writer.write(f"-{self._error}\r\n".encode())


async def _command(reader: asyncio.StreamReader) -> tuple[str, bytes]:
    raw = await _reply(reader)
    return raw.split(b"\r\n")[2].decode().upper(), raw


async def _reply(reader: asyncio.StreamReader) -> bytes:
    """One value of the protocol, as it came."""
    raw = await reader.readuntil(b"\r\n")
    kind = raw[:1]
    size = int(raw[1:]) if kind in b"$*~>%" else 0
    if kind == b"$":
        return raw + (await reader.readexactly(size + 2) if size >= 0 else b"")
    for _ in range(2 * size if kind == b"%" else size):
        raw += await _reply(reader)
    return raw


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
