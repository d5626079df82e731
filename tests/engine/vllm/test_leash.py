"""What a server on a leash leaves behind after `kill -9` of the process that started it, or of the server."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ...support.waiting import wait_until

STARTS = """
import sys
from headrace.engine import EngineConfig, EngineServer
from headrace.engine.vllm.child import VllmProcess

process = VllmProcess(EngineConfig("demo", server=EngineServer(python=sys.argv[1])))
print(process._folder, flush=True)
sys.stdin.read()
"""

SERVES = """
import os, signal, subprocess, sys
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path

signal.signal(signal.SIGTERM, signal.SIG_IGN)
memory = SharedMemory(create=True, size=4096)
other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
folder = Path(sys.argv[sys.argv.index("--uds") + 1]).parent
report = Path({report!r})
report.with_suffix(".new").write_text(f"{{memory.name}} {{os.getppid()}} {{os.getpid()}} {{other.pid}}")
report.with_suffix(".new").rename(report)
signal.pause()
"""
"""A server that ignores SIGTERM, holds shared memory, and has a process in a session of its own."""


@pytest.fixture
def engine_process(tmp_path: Path) -> Iterator["subprocess.Popen[str]"]:
    """A process that has started such a server."""
    code, python = tmp_path / "serves.py", tmp_path / "python"
    code.write_text(SERVES.format(report=str(tmp_path / "report")))
    python.write_text(f'#!/bin/sh\nexec {sys.executable} {code} "$@"\n')
    python.chmod(0o700)
    command = [sys.executable, "-c", STARTS, str(python)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process
        process.kill()


@pytest.mark.parametrize("victim", ["engine process", "server"])
def test_kill_9_leaves_no_process_folder_or_shared_memory_behind(
    victim: str, engine_process: "subprocess.Popen[str]", tmp_path: Path
):
    assert engine_process.stdout is not None
    folder = Path(engine_process.stdout.readline().strip())
    wait_until((tmp_path / "report").exists)
    memory, *pids = (tmp_path / "report").read_text().split()
    assert folder.is_dir()
    assert Path("/dev/shm", memory).exists()
    os.kill(engine_process.pid if victim == "engine process" else int(pids[1]), signal.SIGKILL)
    wait_until(lambda: not any(map(_runs, pids)))
    assert not folder.exists()
    assert not Path("/dev/shm", memory).exists()


def _runs(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
