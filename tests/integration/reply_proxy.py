"""A proxy before Redis that measures replies, and can lose one."""

import select
import socket
import threading
from collections.abc import Callable
from typing import Self

_READ_BYTES = 1 << 16


class ReplyProxy:
    """Passes everything on; a context manager.

    What Redis sends on one connection between two requests is one reply: a pipeline's replies are added up.

    Attributes:
        url: what to give the process whose replies are measured.
        largest_bytes: the largest reply.
        total_bytes: all replies together.
    """

    def __init__(self, redis_url: str) -> None:
        self.largest_bytes = self.total_bytes = 0
        self._target_port = int(redis_url.rpartition(":")[2].partition("/")[0])
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"redis://127.0.0.1:{self._listener.getsockname()[1]}/0"
        self._threads: list[threading.Thread] = []
        self._closing, self._closed = socket.socketpair()
        self._to_lose: tuple[bytes, Callable[[], object]] | None = None

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.close()  # every thread sees its other end
        for thread in self._threads:
            thread.join()
        self._closed.close()
        self._listener.close()

    def forget(self) -> None:
        """Measure from here on."""
        self.largest_bytes = self.total_bytes = 0

    def lose(self, containing: bytes, meanwhile: Callable[[], object]) -> None:
        """Call `meanwhile` and cut the connection instead of passing on the next reply with these bytes."""
        self._to_lose = containing, meanwhile

    def _start(self, serve: Callable[..., None], *args: socket.socket) -> None:
        thread = threading.Thread(target=serve, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while self._closed not in select.select([self._listener, self._closed], [], [])[0]:
            client, _ = self._listener.accept()
            self._start(self._serve, client)

    def _serve(self, client: socket.socket) -> None:
        reply_bytes = 0
        with client, socket.create_connection(("127.0.0.1", self._target_port)) as server:
            while True:
                readable = select.select([client, server, self._closed], [], [])[0]
                if self._closed in readable:
                    return
                for end in readable:
                    try:
                        data = end.recv(_READ_BYTES)
                        if end is server and self._is_to_be_lost(data):
                            return
                        (server if end is client else client).sendall(data)
                    except OSError:
                        return
                    if not data:
                        return
                    reply_bytes = 0 if end is client else reply_bytes + len(data)
                    self.largest_bytes = max(self.largest_bytes, reply_bytes)
                    self.total_bytes += 0 if end is client else len(data)

    def _is_to_be_lost(self, data: bytes) -> bool:
        if self._to_lose is None or self._to_lose[0] not in data:
            return False
        meanwhile, self._to_lose = self._to_lose[1], None
        meanwhile()
        return True
