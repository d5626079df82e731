"""Building and loading the library: each test in processes of its own, with a cache folder of its own."""

import fcntl
import os
import platform
import shutil
import stat
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from headrace import kernels

from ..support.forkserver import Forked, Forkserver

SOURCES = Path(kernels.__file__).parent / "csrc"

DRAW = """
import torch
from headrace.kernels import native
from headrace.kernels.norm import rms_norm
x = torch.ones(2, 8)
assert torch.allclose(rms_norm(x, torch.ones(8), 1e-6), x, atol=1e-5)
rms_norm(x, torch.ones(8), 1e-6)
print("compiled" if native.shared_library() else "torch")
"""


@dataclass
class Started:
    """A process and what it prints."""

    process: Forked
    folder: Path

    @property
    def returncode(self) -> int | None:
        return self.process.poll()

    def communicate(self, timeout: float) -> tuple[str, str]:
        self.process.wait(timeout)
        return (self.folder / "out").read_text(), (self.folder / "err").read_text()


@pytest.fixture(scope="module")
def forkserver(no_process_left):
    server = Forkserver(["torch"])
    yield server
    server.close()


@pytest.fixture
def start(tmp_path, forkserver):
    started = []

    def run(code: str, **environment: str) -> Started:
        fresh = {"XDG_CACHE_HOME": str(tmp_path / "cache"), "HEADRACE_NO_COMPILE": "", "OMP_NUM_THREADS": "1"}
        folder = tmp_path / f"process-{len(started)}"
        folder.mkdir()
        (folder / "code.py").write_text(code)
        with (folder / "out").open("w") as out, (folder / "err").open("w") as err:
            process = forkserver.start(
                [sys.executable, folder / "code.py"],
                env={**os.environ, **fresh, **environment},
                stdout=out,
                stderr=err,
            )
        started.append(Started(process, folder))
        return started[-1]

    yield run
    for each in started:
        each.process.kill()
        each.process.wait()


COMPILE = """
for made; do :; done  # the last argument
kept=KEPT/$(basename -- "$made")
case "$*" in
*" -c "*)
    [ -e "$kept" ] || { c++ "$@" -O0 && cp "$made" "$kept.$$" && mv "$kept.$$" "$kept"; } || exit
    exec cp "$kept" "$made";;
esac
exec c++ "$@" -O0
"""
"""A quick c++: without optimisation, and it compiles each source once for all tests."""


@pytest.fixture(scope="session")
def objects(tmp_path_factory):
    """Where the quick c++ keeps what it has compiled."""
    return tmp_path_factory.mktemp("objects")


@pytest.fixture
def compiler(tmp_path, objects):
    """A quick c++ that notes each link; with a body, one that does that first."""

    def make(body: str = 'case "$*" in *-shared*) echo link >> "$0.log";; esac') -> Path:
        path = tmp_path / "compiler"
        path.write_text(f"#!/bin/sh\n{body}\n{COMPILE.replace('KEPT', str(objects))}")
        path.chmod(0o755)
        return path

    return make


def test_processes_that_start_together_build_once(start, compiler, tmp_path):
    cxx = compiler()
    processes = [start(DRAW, CXX=str(cxx)) for _ in range(4)]
    for process in processes:
        out, err = process.communicate(timeout=120)
        assert (process.returncode, out, err) == (0, "compiled\n", "")
    folder = tmp_path / "cache" / "headrace"
    assert sorted(path.suffix for path in folder.iterdir()) == ["", ".so"]  # the lock and the library
    assert Path(f"{cxx}.log").read_text() == "link\n"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_library_that_is_there_is_loaded_while_another_is_being_built(start, compiler, tmp_path):
    cxx = str(compiler())
    assert start(DRAW, CXX=cxx).communicate(timeout=120) == ("compiled\n", "")
    with (tmp_path / "cache" / "headrace" / "lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert start(DRAW, CXX=cxx).communicate(timeout=120) == ("compiled\n", "")


def test_what_a_killed_build_left_behind_is_swept_by_the_next(start, compiler, tmp_path):
    folder = tmp_path / "cache" / "headrace"
    (folder / "build-dead").mkdir(parents=True)
    (folder / "build-dead" / "attention.o").write_text("half")
    assert start(DRAW, CXX=str(compiler())).communicate(timeout=120) == ("compiled\n", "")
    assert not (folder / "build-dead").exists()


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("echo 'fatal error: out of luck' >&2; exit 3", "ended with 3: fatal error: out of luck"),
        ('case "$*" in *-dM*) exec c++ "$@";; esac; echo "error: no" >&2; exit 1', "ended with 1: error: no"),
        ('case "$*" in *-shared*) echo "ld: error" >&2; exit 1;; esac', "ld: error"),
    ],
    ids=["at once", "when compiling", "when linking"],
)
def test_a_broken_compiler_means_torch_operations_and_one_warning(start, compiler, tmp_path, body, reason):
    out, err = start(DRAW, CXX=str(compiler(body))).communicate(timeout=120)
    assert out == "torch\n"
    assert err.count("could not be compiled") == 1
    assert reason in err
    assert "apt install g++" in err
    assert not list(tmp_path.glob("cache/headrace/kernels-*"))


def test_no_compiler_at_all_is_named_as_the_reason(start, tmp_path):
    out, err = start(DRAW, CXX="", PATH=str(tmp_path)).communicate(timeout=120)
    assert out == "torch\n"
    assert "no c++, g++ or clang++ on the PATH" in err


def test_the_fallback_can_be_asked_for_without_a_warning(start):
    assert start(DRAW, HEADRACE_NO_COMPILE="1", CXX="/nonexistent").communicate(timeout=120) == (
        "torch\n",
        "",
    )


def test_an_unwritable_cache_still_gets_compiled_kernels(start, compiler, tmp_path):
    (tmp_path / "file").write_text("")
    process = start(DRAW, XDG_CACHE_HOME=str(tmp_path / "file"), CXX=str(compiler()))
    assert process.communicate(timeout=120) == ("compiled\n", "")


def test_one_openmp_runtime_and_one_thread_pool_serve_torch_and_the_kernels(start):
    code = """
import torch
from pathlib import Path
from headrace.kernels.norm import rms_norm
torch.set_num_threads(3)
x = torch.randn(1024, 1024)
x.exp()
before = len(list(Path("/proc/self/task").iterdir()))
rms_norm(x, torch.ones(1024), 1e-6)
after = len(list(Path("/proc/self/task").iterdir()))
runtimes = {line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines()
            if any(name in line for name in ("libgomp", "libiomp", "libomp"))}
print(len(runtimes), before >= 3, after - before)
"""
    usual = os.environ.get("XDG_CACHE_HOME", "")
    assert start(code, XDG_CACHE_HOME=usual).communicate(timeout=120) == ("1 True 0\n", "")


@pytest.mark.skipif(platform.machine() != "x86_64" or shutil.which("g++") is None, reason="for g++ on x86-64")
@pytest.mark.parametrize(
    "machine",
    [
        "x86-64",
        pytest.param("x86-64-v3", marks=pytest.mark.slow),
        pytest.param("skylake-avx512", marks=pytest.mark.slow),
        pytest.param("cooperlake", marks=pytest.mark.slow),
        "sapphirerapids",
    ],
)
def test_the_sources_are_right_for_processors_that_are_not_here(machine):
    """What only the syntax shows: templates for all of their products are instantiated."""
    command = ["g++", "-std=c++17", "-O0", "-fopenmp", "-fsyntax-only", "-Wall", "-Werror", "-Wno-psabi"]
    sources = [str(path) for path in sorted(SOURCES.glob("*.cpp"))]
    done = subprocess.run(
        [*command, f"-march={machine}", *sources], capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr
