"""The engine process's handle on its intake process: it starts it, has places forked, and restarts it."""

import json
import os
import socket
import subprocess
import sys
import threading

import structlog

from ..text import Tokenizer, TokenizerError, TokenText
from . import frames
from .process import EARLY, Order, order_message

EXIT_S = 5.0

log = structlog.get_logger(__name__)


_early: "list[tuple[socket.socket, subprocess.Popen[bytes]]]" = []
"""Intake processes that were started before there was an order for them, each with its control socket."""


def start_early() -> None:
    """Start an intake process for `Places` to take, and wait until it has done its imports, gently.

    It ends with the thread that calls this.
    """
    ours, theirs = socket.socketpair()
    with theirs:
        process = start_process(theirs, EARLY)
    if frames.receive(ours) is not None:
        _early.append((ours, process))
        return
    ours.close()
    log.warning("intake_process_lost", pid=process.pid, status=process.wait())


def _take_early() -> "tuple[socket.socket, subprocess.Popen[bytes]] | None":
    while _early:
        control, process = _early.pop()
        if process.poll() is None:
            return control, process
        control.close()
    return None


def start_process(end: socket.socket, *options: str) -> "subprocess.Popen[bytes]":
    """Start an intake process with this end of a socket pair."""
    return subprocess.Popen(
        [sys.executable, "-m", "headrace.workers.engine_process.intake.process", str(end.fileno()), *options],
        # Not forked from the engine process: one with CUDA and threads can't be forked safely.
        pass_fds=[end.fileno()],
        stdin=subprocess.DEVNULL,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


class Places:
    """The places where jobs are read. Threads that use it must live as long as the engine process does.

    Args:
        order: the intake process's instructions.

    Attributes:
        process: the intake process.
        eos_token_id: the token that ends a text according to the tokenizer, once it is loaded.
    """

    def __init__(self, order: Order) -> None:
        self._order = order
        self._lock = threading.Lock()
        self._launch()

    def _launch(self) -> None:
        early = _take_early()
        if early is not None:
            self._control, self.process = early
        else:
            self._control, theirs = socket.socketpair()
            with theirs:
                self.process = start_process(theirs)
        self._tokenizer: str | None = None
        self._fingerprint = ""
        self.eos_token_id: int | None = None
        self._ready = False
        frames.send(self._control, order_message(self._order))

    def tokenizer(self) -> tuple[TokenText, str]:
        """Wait for the intake process to load the model's tokenizer; return it and its fingerprint.

        Raises:
            TokenizerError: it can't be loaded.
        """
        with self._lock:
            self._await()
            # Handed out once; it may be tens of megabytes.
            serialized, self._tokenizer = self._tokenizer, None
        if serialized is None:
            return Tokenizer(self._order.model), self._fingerprint
        return TokenText.from_json(serialized), self._fingerprint

    def fork(self, kind: bytes) -> socket.socket:
        """Fork a new place, which reads what is sent to it.

        Raises:
            OSError, TokenizerError: it could not be started.
        """
        with self._lock:
            try:
                return self._fork(kind)
            except (OSError, TokenizerError):
                log.warning("intake_process_lost", pid=self.process.pid)
                self.close()
                self._launch()
                return self._fork(kind)

    def _fork(self, kind: bytes) -> socket.socket:
        self._await()
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                socket.send_fds(self._control, [kind], [theirs.fileno()])
            except OSError:
                ours.close()
                raise
        return ours

    def _await(self) -> None:
        if self._ready:
            return
        message = frames.receive(self._control)
        if message is None:
            raise TokenizerError("the process that loads the tokenizer has ended; the log above says why")
        said = json.loads(message)
        if "error" in said:
            raise TokenizerError(said["error"])
        self._tokenizer, self._fingerprint = said["tokenizer"], said["fingerprint"]
        self.eos_token_id, self._ready = said["eos_token_id"], True

    def close(self) -> None:
        """Stop the intake process and its places."""
        self._control.close()
        try:
            self.process.wait(EXIT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
