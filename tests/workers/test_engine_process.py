"""How an engine process begins."""

import gc
import runpy
import sys

import pytest

from headrace.workers import lifeline

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
