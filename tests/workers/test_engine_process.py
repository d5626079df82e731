"""How an engine process begins."""

import gc
import os
import runpy
import socket
import subprocess
import sys

import pytest

from headrace.workers import lifeline
from headrace.workers.models import NotAFile, check_files
from headrace.workers.pipe import Launch, encode


def test_a_pipe_in_a_models_folder_is_refused_by_name(tmp_path):
    os.mkfifo(tmp_path / "config.json")
    with pytest.raises(NotAFile, match=r"config\.json is no file"):
        check_files(str(tmp_path))


MODULE = "headrace.workers.engine_process"


def test_garbage_is_collected_again_once_all_is_loaded(monkeypatch):
    collecting = []

    def join_host(pipe_fd: int) -> None:
        collecting.append(gc.isenabled())
        sys.exit("no host")

    monkeypatch.setattr(lifeline, "join_host", join_host)
    monkeypatch.setattr(sys, "argv", [MODULE, "3"])
    monkeypatch.delitem(sys.modules, MODULE, raising=False)
    try:
        with pytest.raises(SystemExit, match="no host"):
            runpy.run_module(MODULE, run_name="__main__")
    finally:
        gc.unfreeze()
        gc.enable()
    assert collecting == [True]


def test_an_engine_process_whose_host_died_before_it_began_ends_at_once(engine_command):
    host, engine = socket.socketpair()
    with host, engine:
        host.sendall(encode(Launch("worker-1", 0, 1, 600.0, "{}")))
        host.close()
        command = [*engine_command("loading"), str(engine.fileno())]
        ended = subprocess.run(
            command, pass_fds=[engine.fileno()], check=False, timeout=20, stderr=subprocess.PIPE
        )
    assert (ended.returncode, b"the host is gone" in ended.stderr) == (1, True)
