"""Engines are found by their names."""

import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from headrace import engine
from headrace.engine import (
    Engine,
    EngineConfig,
    EngineSpec,
    ModelError,
    UnknownEngine,
    engine_spec,
    register,
    registry,
)

from .counting_engine import CountingEngine

PLANNING = "scheduler", "pages", "pacing", "sequence", "registry", "protocol", "conformance"
INSTALLED = EntryPoint("counting", "tests.engine.counting_engine:CountingEngine", registry.GROUP)
BROKEN = EntryPoint("broken", "headrace.engine.no_such_module:load", registry.GROUP)


@pytest.fixture(autouse=True)
def _installed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(registry, "_registered", dict(registry._registered))
    monkeypatch.setattr(registry, "entry_points", lambda group: [INSTALLED, BROKEN])


def test_headraces_own_engine_is_there_by_its_name(model_folder):
    made = engine_spec("headrace").load(EngineConfig(model=str(model_folder("llama")), num_pages=8))
    assert isinstance(made, Engine)


def test_a_registered_engine_is_found_with_its_fingerprint():
    register("mine", CountingEngine, fingerprint=lambda config: f"of {config.model}")
    spec = engine_spec("mine")
    assert isinstance(spec.load(EngineConfig(model="m")), CountingEngine)
    assert spec.fingerprint_of(EngineConfig(model="m")) == "of m"


def test_an_installed_packages_engine_is_found():
    assert engine_spec("counting") == EngineSpec(CountingEngine)


def test_an_unknown_name_is_refused_with_those_that_exist():
    register("mine", CountingEngine)
    with pytest.raises(UnknownEngine, match="no engine 'vlm', only: broken, counting, headrace, mine"):
        engine_spec("vlm")


def test_an_engine_that_can_not_be_imported_is_named():
    with pytest.raises(UnknownEngine, match=r"'broken' \(headrace.engine.no_such_module:load\) can't be imp"):
        engine_spec("broken")


def test_an_engine_without_a_deterministic_mode_is_refused_where_that_is_asked_for():
    register("mine", CountingEngine)
    with pytest.raises(ModelError, match="engine 'mine' has no deterministic mode"):
        engine_spec("mine", deterministic=True)
    register("mine", CountingEngine, deterministic=True)
    assert engine_spec("mine", deterministic=True).deterministic
    assert engine_spec("headrace", deterministic=True).deterministic


@pytest.mark.parametrize("module", PLANNING)
def test_what_plans_steps_and_describes_engines_needs_no_torch(module: str):
    code = f"import sys, headrace.engine.{module}; print(*{{'torch', 'numpy'}} & {{*sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "\n"


def test_public_names_are_found_where_they_are_said_to_be():
    assert {*engine._HOME_OF} == {*engine.__all__} <= {*dir(engine)}
    assert all(getattr(engine, name).__name__ == name for name in engine.__all__)
    assert Path(engine.__file__).parent.samefile(Path(registry.__file__).parent)
