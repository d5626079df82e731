"""The embedded server as its users see it: it can be stopped, and started again with its port and data."""

import signal
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from ...schemas.errors import EmbeddedRedisError
from .binary import find_binary
from .folder import TemporaryFolder
from .ports import free_port
from .process import ServerProcess

_PORT_TRIES = 5
_PORT_TAKEN = "Address already in use"


class EmbeddedRedis:
    """A Redis on 127.0.0.1 that keeps its data in a folder and ends with this process.

    It appends every write to a file (synced each second), takes no snapshots and evicts nothing. It has no
    password, as is usual for a local Redis: anyone who may run programs on this machine can reach it.

    Args:
        data_dir: holds the append-only file and the log, and belongs to one server at a time; by default a
            temporary folder, which `close` removes, or the next process that makes one if this process is
            killed.
        port: TCP port; by default a free one, chosen at the first start and kept.
        preferred: the port to use instead of any free one, if it is free.
    """

    def __init__(
        self, data_dir: Path | None = None, port: int | None = None, preferred: int | None = None
    ) -> None:
        self._temporary = TemporaryFolder() if data_dir is None else None
        self.data_dir = Path(self._temporary.path if self._temporary else data_dir or "").absolute()
        self._port, self._preferred = port, preferred
        self._process: ServerProcess | None = None

    @property
    def port(self) -> int:
        """Where it listens; the same after a restart."""
        if self._port is None:
            raise EmbeddedRedisError("the embedded Redis was never started: it has no port yet")
        return self._port

    @property
    def url(self) -> str:
        """Where clients find it; the same after a restart."""
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int:
        """The server's process id."""
        return self._running().pid

    @property
    def log(self) -> Path:
        """The server's log, of all its starts."""
        return self.data_dir / "redis.log"

    def start(self) -> None:
        """Start the server and wait until it has loaded its data and answers; do nothing if it runs.

        Raises:
            EmbeddedRedisError: there is no binary, the folder or port is in use, or the server fails.
        """
        if self._process is not None and self._process.alive:
            return
        binary = find_binary()
        self.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)  # it will hold prompts and outputs
        for last_try, port in self._ports():
            process = ServerProcess(binary, self.data_dir, self.log, port)
            try:
                process.wait_ready()
            except BaseException as error:
                process.end(signal.SIGKILL)
                # Taken between the look and the start: another port may do.
                if last_try or _PORT_TAKEN not in str(error):
                    raise
            else:
                self._process, self._port = process, port
                return

    def stop(self) -> None:
        """Shut the server down and wait for its end; the data stays. Do nothing if it is stopped."""
        if self._process is not None:
            self._process.end(signal.SIGTERM)
            self._process = None

    def kill(self, signum: int = signal.SIGKILL) -> None:
        """Send the server a signal; after SIGKILL, wait for its end."""
        process = self._running()
        process.send(signum)
        if signum == signal.SIGKILL:
            process.end(signum)

    def close(self) -> None:
        """Stop for good, and remove a temporary data folder."""
        self.stop()
        if self._temporary is not None:
            self._temporary.remove()

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _running(self) -> ServerProcess:
        if self._process is None or not self._process.alive:
            raise EmbeddedRedisError("the embedded Redis is not running")
        return self._process

    def _ports(self) -> Iterator[tuple[bool, int]]:
        """Ports to try, and whether each is the last: a free one may be taken before the server has it."""
        if self._port is not None:
            yield True, self._port
            return
        if self._preferred is not None:
            yield False, self._preferred
        for left in reversed(range(_PORT_TRIES)):
            yield left == 0, free_port()
