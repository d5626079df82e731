"""How an engine process begins."""

import gc
import os
import runpy
import sys

import pytest

from headrace.workers import lifeline
from headrace.workers.models import NotAFile, check_files


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
