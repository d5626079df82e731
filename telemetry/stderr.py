"""Writes log lines to stderr, which may be closed, full, or a pipe that nobody reads.

A pipe that is full but open blocks its writers forever, so a log collector that hangs would stop every
worker behind it. Pipes and sockets therefore get a moment to accept a line. One that doesn't is considered
stuck: lines are dropped without waiting until it accepts one again, and then the first line says how many
were lost.
"""

import logging
import os
import select
import socket
import stat
from io import FileIO

MOMENT_S = 0.1
"""How long a reader may take to make room."""


class LineHandler(logging.Handler):
    """Writes each record as a line to the open file `fd`, or drops it."""

    def __init__(self, fd: int) -> None:
        super().__init__()
        self._to = _opened(fd)
        self._lost, self._torn = 0, False

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line."""
        try:
            line = self.format(record)
        except Exception:
            self.handleError(record)
            return
        if (
            self._lost
        ):  # in one write with the line: alone it is short enough to fit where the line would be lost again
            line = f'{{"event": "log_lines_lost", "level": "warning", "lines": {self._lost}}}\n{line}'
        self._lost = 0 if self._put(line) else self._lost + 1

    def close(self) -> None:
        """Close what was opened only for this handler."""
        self._to.close()
        super().close()

    def _put(self, line: str) -> bool:
        data = memoryview(b"\n" * self._torn + line.encode(errors="backslashreplace") + b"\n")
        while data:
            try:
                written = self._to.write(data)
            except BlockingIOError:
                written = None
            except OSError:  # nobody reads it, or the disk is full
                return False
            if written is not None:
                data, self._torn = data[written:], written < len(data)
            elif self._lost or not self._room():
                return False
        return True

    def _room(self) -> bool:
        room = select.poll()
        room.register(self._to.fileno(), select.POLLOUT)
        return bool(room.poll(1000 * MOMENT_S))


class _Socket:
    def __init__(self, fd: int) -> None:
        self._end = socket.socket(fileno=os.dup(fd))
        self.fileno, self.close = self._end.fileno, self._end.close

    def write(self, data: memoryview) -> int:
        return self._end.send(data, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)


def _opened(fd: int) -> "FileIO | _Socket":
    """Open `fd` so that it can be written to without waiting for a reader."""
    kind = os.fstat(fd).st_mode
    if stat.S_ISSOCK(kind):
        return _Socket(fd)
    if stat.S_ISFIFO(kind):
        try:  # opened again, because non-blocking mode would apply to every process that has inherited it
            own = os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return FileIO(fd, "w", closefd=False)
        return FileIO(own, "w")
    return FileIO(fd, "w", closefd=False)
