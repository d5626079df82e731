"""Where lines of the log go: stderr, which may be closed, full, or a pipe that nobody reads any more.

A pipe that is full but open holds up whoever writes to it, for ever: a log collector that hangs would stop
every worker behind it. So pipes and sockets get a moment to take a line. One that does not take it counts as
stuck: lines are lost, without a wait, until it takes one again, and then how many were is said first.
"""

import logging
import os
import select
import socket
import stat
from io import FileIO

MOMENT_S = 0.1
"""What a reader gets to make room."""


class LineHandler(logging.Handler):
    """Writes each record as a line to the open file `fd`, or loses it."""

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
        if self._lost:  # in one write with the line: what is short fits where the line would be lost again
            line = f'{{"event": "log_lines_lost", "level": "warning", "lines": {self._lost}}}\n{line}'
        self._lost = 0 if self._put(line) else self._lost + 1

    def close(self) -> None:
        """Close what was opened for this handler alone."""
        self._to.close()
        super().close()

    def _put(self, line: str) -> bool:
        data = memoryview(b"\n" * self._torn + line.encode(errors="backslashreplace") + b"\n")
        while data:
            try:
                written = self._to.write(data)
            except BlockingIOError:
                written = None
            except OSError:  # nobody reads it any more, or the disk is full
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
    """The open file `fd`, to be written to without waiting for a reader."""
    kind = os.fstat(fd).st_mode
    if stat.S_ISSOCK(kind):
        return _Socket(fd)
    if stat.S_ISFIFO(kind):
        try:  # opened again, because not to wait would hold for everybody who has inherited it
            own = os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return FileIO(fd, "w", closefd=False)
        return FileIO(own, "w")
    return FileIO(fd, "w", closefd=False)
