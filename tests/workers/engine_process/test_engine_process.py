"""How an engine process begins."""

import gc
import json
import os
import runpy
import socket
import subprocess
import sys

import pytest

from headrace.engine import EngineConfig, EngineSpec, ModelError
from headrace.schemas.errors import BadSetting
from headrace.workers.engine_process import main as engine_process
from headrace.workers.models import check_files, name_to_serve
from headrace.workers.supervision import lifeline
from headrace.workers.supervision.pipe import LaunchEngine, encode


def test_a_pipe_in_a_models_folder_is_refused_by_name(tmp_path):
    os.mkfifo(tmp_path / "config.json")
    with pytest.raises(BadSetting, match=r"config\.json is not a regular file"):
        check_files(str(tmp_path))


def test_a_path_at_which_there_is_nothing_is_said_to_be_one():
    with pytest.raises(BadSetting, match=r"model: '/no/such/folder' does not exist; give an existing folder"):
        name_to_serve("/no/such/folder", None)


MODULE = "headrace.workers.engine_process.main"


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
        host.sendall(encode(LaunchEngine("worker-1", 0, 1, 600.0, "{}")))
        host.close()
        command = [*engine_command("loading"), str(engine.fileno())]
        ended = subprocess.run(
            command, pass_fds=[engine.fileno()], check=False, timeout=20, stderr=subprocess.PIPE
        )
    assert ended.returncode == 1
    assert [json.loads(line)["event"] for line in ended.stderr.splitlines()] == ["host_gone"]


class NoPlaces:
    def tokenizer(self):
        raise AssertionError("the model is loaded first")


@pytest.mark.parametrize(
    ("raised", "sentence"),
    [
        (KeyError("what\nnobody thought of"), r"^'m' can't be loaded: KeyError: 'what\\nnobody thought of'$"),
        (RuntimeError("two\nlines"), r"^'m' can't be loaded: RuntimeError: two lines$"),
        (MemoryError(), r"^not enough memory to load 'm'; free some"),
        (ModelError("its own words"), r"^its own words$"),
    ],
)
def test_all_that_loading_raises_is_one_sentence(raised, sentence):
    def failing(config):
        raise raised

    spec = EngineSpec(failing, fingerprint=lambda config: "f")
    with pytest.raises(ModelError, match=sentence):
        engine_process._load(spec, EngineConfig(model="m"), NoPlaces(), None)


@pytest.mark.parametrize("name", ["my model", "-dash", "ü", "a" * 129, "a:b", "/"])
def test_a_name_that_no_producer_may_use_is_refused(name, tmp_path):
    with pytest.raises(BadSetting, match=r"served_name: no client can enqueue to .* give another"):
        name_to_serve("demo", name)
    if name.strip("/") and len(name) < 129:
        (tmp_path / name).mkdir()
        with pytest.raises(BadSetting, match=r"model: no client can enqueue to .* give it a served_name"):
            name_to_serve(str(tmp_path / name), None)
        assert name_to_serve(str(tmp_path / name), "mine") == "mine"
