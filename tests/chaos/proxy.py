"""The network between a process and Redis: a TCP proxy on loopback that can be cut."""

import asyncio
import socket
import struct
import threading
from collections.abc import Coroutine
from contextlib import suppress

_NO_LINGER = struct.pack("ii", 1, 0)


class Proxy:
    """Passes bytes on, in a thread of its own, until it is cut or closed.

    Cut, it holds back everything, new connections too, and tells nobody: what is sent arrives late.
    Broken, it resets every connection and each new one.

    Attributes:
        port: where it listens.
    """

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._loop = asyncio.new_event_loop()
        self._passing = asyncio.Event()
        self._passing.set()
        self._broken = False
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name=f"proxy-{self.port}", daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def passes(self) -> bool:
        """Whether the network is well."""
        return self._passing.is_set() and not self._broken

    def cut(self) -> None:
        """Let nothing through."""
        self._loop.call_soon_threadsafe(self._passing.clear)

    def break_up(self) -> None:
        """Reset everything."""
        self._broken = True
        self._loop.call_soon_threadsafe(self._reset)

    def heal(self) -> None:
        """Let everything through again, what was held back first."""
        self._broken = False
        self._loop.call_soon_threadsafe(self._passing.set)

    def forget(self) -> None:
        """Let nothing more through on the connections there are, as a gateway that lost them."""
        self._loop.call_soon_threadsafe(self._forget)

    def redirect(self, target_port: int) -> None:
        """Connect whoever comes from now on elsewhere, as an address does that moves in a failover."""
        self._target_port = target_port

    def close(self) -> None:
        """End it with all its connections."""
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        self._loop.close()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._serve())

    async def _serve(self) -> None:
        async with await asyncio.start_server(self._accepted, sock=self._listener):
            await self._stop.wait()
            self._broken = True
            self._loop.remove_reader(self._listener)  # asyncio leaks who is being accepted at its close
            await asyncio.gather(*asyncio.all_tasks() - self._tasks - {asyncio.current_task()})
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            self._reset()  # those too whose task was cancelled before it had begun
            await asyncio.sleep(0)  # a socket closes in the turn after its `abort`

    def _start(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        self._start(self._connect(reader, writer))

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        passing = self._passing
        try:
            await passing.wait()
            if self._broken:
                return
            upstream, up = await asyncio.open_connection("127.0.0.1", self._target_port)
            self._writers.add(up)
            try:
                ways = (reader, up), (upstream, writer)
                pumps = [self._start(self._pump(*way, passing)) for way in ways]
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            finally:
                self._end(up)  # one side has gone: the other is told
        except OSError:
            pass
        finally:
            self._end(writer)

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, passing: asyncio.Event
    ) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                await passing.wait()
                writer.write(data)
                await writer.drain()

    def _forget(self) -> None:
        self._passing.clear()
        self._passing = asyncio.Event()
        self._passing.set()

    def _reset(self) -> None:
        for writer in list(self._writers):
            self._end(writer)

    def _end(self, writer: asyncio.StreamWriter) -> None:
        self._writers.discard(writer)
        with suppress(OSError):
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        writer.transport.abort()
