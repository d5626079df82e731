"""A process that the host started, the pipe to it, and how its end shows."""

import os
import signal
import socket
import subprocess
from collections.abc import Mapping, Sequence

import structlog

from ..supervision.pipe import HostPipe

EXIT_S = 10.0
"""How long an engine process may take to exit after its pipe has ended; releasing a GPU takes time."""

log = structlog.get_logger(__name__)


class ChildProcess:
    """A started process. The constructor raises OSError if the system can't start it.

    Args:
        command: starts the process; the number of its end of the pipe is appended.
        environment: its variables beyond those of the host.

    Attributes:
        pid: its process id.
        pipe: the host's end of the pipe to it.
        signs: file descriptors that become readable when it sends something or ends.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                # A process group of its own: a terminal's Ctrl-C is for the host, which then coordinates.
                self._process = subprocess.Popen(
                    [*command, str(theirs.fileno())],
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    env=os.environ | environment,
                    process_group=0,
                )
            except OSError:
                ours.close()
                raise
        self.pid = self._process.pid
        self.pipe = HostPipe(ours)
        self._pidfd = _pidfd(self.pid)
        self.signs: list[HostPipe | int] = [self.pipe] if self._pidfd is None else [self.pipe, self._pidfd]

    @property
    def ended(self) -> bool:
        """Whether the process has ended."""
        return self._process.poll() is not None

    def hang_up(self) -> None:
        """Note that its pipe has ended, so that only its exit remains to be seen."""
        self.signs = [sign for sign in self.signs if sign is not self.pipe]

    def kill(self, signum: int = signal.SIGKILL) -> None:
        """Send a signal to it and to the processes that it has started."""
        try:
            os.killpg(self.pid, signum)
        except ProcessLookupError:
            return

    def reap(self) -> int:
        """Wait for its exit status (minus the signal that killed it), and kill it if it takes too long.

        One that the kernel doesn't end even then, as when a device doesn't respond, is left behind, since the
        host has others to look after.
        """
        status = self._exit_status()
        if status is None:
            self.kill()
            status = self._exit_status()
        if status is None:
            log.error("process_left_behind", pid=self.pid, reason=f"SIGKILL has not ended it in {EXIT_S:g} s")
            status = -signal.SIGKILL
        self.pipe.close()
        if self._pidfd is not None:
            os.close(self._pidfd)
        return status

    def _exit_status(self) -> int | None:
        try:
            return self._process.wait(EXIT_S)
        except subprocess.TimeoutExpired:
            return None


def _pidfd(pid: int) -> int | None:
    try:
        return os.pidfd_open(pid)
    except OSError:  # a kernel before 5.3: the end of the pipe must do
        return None
