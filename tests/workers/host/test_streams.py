"""What a host's output goes to may be closed, full or gone: that is the log's loss."""

import contextlib
import json
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from .test_host import Celery, Eventually, celery_on

HERE = Path(__file__).parents[1]
CLOSED = {"closed": ">&- 2>&-", "closed_stdin_too": "<&- >&- 2>&-", "full": ">/dev/full 2>/dev/full"}


@contextlib.contextmanager
def host_writing_to(redirection: str, redis_url: str, **streams: Any) -> Iterator[psutil.Popen]:
    """A host with a stand-in for its engine process, started by a shell with this redirection."""
    settings = json.dumps({"redis_url": redis_url, "model": "demo"})
    command = [sys.executable, str(HERE / "fake_host.py"), settings, "serve"]
    process = psutil.Popen(["sh", "-c", f'exec "$@" {redirection}', "sh", *command], **streams)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGQUIT)
        process.wait(20)


def is_served(celery: Celery, process: psutil.Popen) -> bool:
    """Whether the host shows an engine process that is ready."""
    assert process.poll() is None
    stats = celery.ask(SimpleNamespace(process=process), "stats")
    return bool(stats) and stats["engine_0_state"] == "ready"


@pytest.mark.parametrize("redirection", CLOSED.values(), ids=CLOSED)
def test_a_host_without_output_serves_and_ends_well(
    redirection: str, redis_url: str, eventually: Eventually
) -> None:
    with host_writing_to(redirection, redis_url) as host, celery_on(redis_url) as celery:
        eventually(lambda: is_served(celery, host))
        (engine,) = host.children()
        for process in (host, engine):
            for number in (1, 2):
                assert str(Path(f"/proc/{process.pid}/fd/{number}").readlink()).startswith("/dev/")
        host.terminate()
        assert host.wait(20) == 0


def test_a_host_goes_on_when_whoever_read_its_output_is_gone(redis_url: str, eventually: Eventually) -> None:
    reader, writer = socket.socketpair()
    with host_writing_to("", redis_url, stdout=writer, stderr=writer) as host, celery_on(redis_url) as celery:
        writer.close()
        assert reader.recv(1)
        reader.close()
        eventually(lambda: is_served(celery, host))
        (engine,) = host.children()
        engine.kill()
        eventually(lambda: host.children() not in ([], [engine]) and is_served(celery, host))
        host.terminate()
        assert host.wait(20) == 0
