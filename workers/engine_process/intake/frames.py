"""Messages between an engine process and its intake: their length, then their bytes."""

import select
import socket

_LENGTH = 8


def send(end: socket.socket, message: bytes) -> None:
    """Send a message whole.

    Raises:
        OSError: the other side is gone.
    """
    end.sendall(len(message).to_bytes(_LENGTH))
    end.sendall(message)


def receive(end: socket.socket) -> bytes | None:
    """The next message; None when the other side is gone.

    Raises:
        TimeoutError: no complete message came within the socket's time limit.
    """
    length = _read(end, _LENGTH)
    return None if length is None else _read(end, int.from_bytes(length))


def is_gone(end: socket.socket) -> bool:
    """Whether the other side has ended; between two jobs there is nothing else to be read."""
    poll = select.poll()
    poll.register(end, select.POLLIN)
    return bool(poll.poll(0))


def _read(end: socket.socket, size: int) -> bytes | None:
    found = bytearray(size)
    rest = memoryview(found)
    while rest:
        try:
            count = end.recv_into(rest)
        except ConnectionError:
            return None
        if not count:
            return None
        rest = rest[count:]
    return bytes(found)
