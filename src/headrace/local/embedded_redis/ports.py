"""TCP ports of 127.0.0.1 for an embedded Redis."""

import random
import socket
from pathlib import Path

from ...schemas.errors import EmbeddedRedisError

USUAL = 6379
"""Where Redis is expected by default."""

PORTS = range(20_000, 30_000)
"""Below the kernel's range for outgoing connections, so that no connection is given our port while the server
restarts, and a client that keeps reconnecting to it can't end up connected to itself."""

_NOTE = "redis.port"


def is_free(port: int) -> bool:
    """Whether the port is free now."""
    with socket.socket() as candidate:
        candidate.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as Redis does
        try:
            candidate.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def free_port() -> int:
    """A port that is free now.

    Raises:
        EmbeddedRedisError: there is none in `PORTS`.
    """
    for port in random.sample(PORTS, len(PORTS)):
        if is_free(port):
            return port
    raise EmbeddedRedisError(f"no free TCP port between {PORTS.start} and {PORTS.stop}")


def preferred_port(folder: Path) -> int | None:
    """The usual port if it is free, else the one that `keep_port` noted in `folder`; None if neither is."""
    if is_free(USUAL):
        return USUAL
    try:
        noted = int((folder / _NOTE).read_text())
    except (OSError, ValueError):
        return None
    return noted if noted in PORTS else None


def keep_port(folder: Path, port: int) -> None:
    """Note a port, so that the next start in this folder takes it again if the usual one isn't free."""
    if port != USUAL:
        (folder / _NOTE).write_text(f"{port}\n")
