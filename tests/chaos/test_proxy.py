"""The proxy of the fault tests leaves nothing behind."""

import gc
import socket
import threading
from contextlib import suppress

from .proxy import Proxy


def test_closing_ends_whoever_connects_meanwhile():
    # What it leaked would be a ResourceWarning, and so an error.
    with socket.create_server(("127.0.0.1", 0)) as target:
        for _ in range(5):
            proxy = Proxy(target.getsockname()[1])
            begun, closed = threading.Event(), threading.Event()
            visitors = [threading.Thread(target=_knock, args=(proxy.port, begun, closed)) for _ in range(3)]
            for visitor in visitors:
                visitor.start()
            begun.wait()
            proxy.close()
            closed.set()
            for visitor in visitors:
                visitor.join()
            del proxy
            gc.collect()


def _knock(port: int, begun: threading.Event, enough: threading.Event) -> None:
    while not enough.is_set():
        with suppress(OSError):
            socket.create_connection(("127.0.0.1", port), timeout=0.05).close()
        begun.set()
