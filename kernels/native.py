"""The CPU kernels of csrc/, compiled at first use and loaded with ctypes.

Building for this machine (`-march=native`) is what makes plain loops fast, so no binary is shipped: the
system's compiler builds the library once, and a cache keeps it. The cache key covers everything that
determines the result: the sources, the flags, and the compiler's predefined macros, which contain its version
and the instruction set. Builds run under a file lock and appear by a rename, so any number of processes may
start at once.

The library is linked to the OpenMP runtime that torch has loaded, not to the compiler's own: two runtimes
would be two thread pools fighting for the same cores.
"""

import ctypes
import fcntl
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import torch

logger = logging.getLogger(__name__)

DTYPE_CODES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
"""The library's names of element types; any other dtype takes the torch path."""

_SOURCES = Path(__file__).parent / "csrc"
_BUILD_TIMEOUT_S = 300


class BuildError(Exception):
    """The library could not be built; the message says why."""


@cache
def shared_library() -> ctypes.CDLL | None:
    """The compiled kernels; None, with one warning in the log, if they can't be built.

    `HEADRACE_NO_COMPILE=1` asks for None. Safe to call from any thread; the first call may compile.
    """
    if os.environ.get("HEADRACE_NO_COMPILE", "0") not in {"", "0"}:
        logger.info("HEADRACE_NO_COMPILE is set: the CPU kernels run as torch operations")
        return None
    try:
        return _declare(_load())
    except (BuildError, OSError) as error:
        logger.warning(
            "The CPU kernels could not be compiled, so slower torch operations stand in for them. "
            "Install a C++ compiler (Debian, Ubuntu: apt install g++; Fedora: dnf install gcc-c++) or name "
            "one in CXX. Reason: %s",
            error,
        )
        return None


def _load() -> ctypes.CDLL:
    compiler = _compiler()
    sources = sorted(_SOURCES.iterdir())
    flags = [
        "-std=c++17",
        "-O3",
        "-fopenmp",
        "-fPIC",
        "-fno-math-errno",
        "-fno-trapping-math",
        "-ffp-contract=fast",  # some products are fused by hand, and a row's bits must not depend on which
        _native_flag(),
    ]
    # An example of why: a home folder shared by machines, of which one has AMX and one has not.
    macros = _run([*compiler, *flags, "-x", "c++", "-dM", "-E", os.devnull])
    openmp = _openmp_runtime()
    digest = hashlib.sha256()
    for part in (*(path.read_bytes() for path in sources), " ".join(flags).encode(), macros, openmp.encode()):
        digest.update(hashlib.sha256(part).digest())
    with _cache_folder() as folder:
        target = folder / f"kernels-{digest.hexdigest()[:24]}.so"
        if not target.exists():  # otherwise no process waits while another one builds
            with (folder / "lock").open("a") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                for abandoned in folder.glob(
                    "build-*"
                ):  # left by a process that died, since the lock is ours
                    shutil.rmtree(abandoned, ignore_errors=True)
                if not target.exists():
                    _build(compiler, flags, [p for p in sources if p.suffix == ".cpp"], openmp, target)
        return ctypes.CDLL(str(target))


def _build(compiler: list[str], flags: list[str], sources: list[Path], openmp: str, target: Path) -> None:
    with tempfile.TemporaryDirectory(dir=target.parent, prefix="build-") as folder:
        objects = [str(Path(folder) / f"{source.stem}.o") for source in sources]
        for source, made in zip(sources, objects, strict=True):
            _run([*compiler, *flags, "-c", str(source), "-o", made])
        made = str(Path(folder) / "kernels.so")
        # Without -fopenmp here the linker adds no runtime of its own.
        # -z defs: a symbol that is missing fails here and not at the first call.
        _run([*compiler, "-shared", "-Wl,-z,defs", "-o", made, *objects, openmp or "-fopenmp"])
        Path(made).replace(target)


def _compiler() -> list[str]:
    if named := os.environ.get("CXX"):
        return named.split()
    for name in ("c++", "g++", "clang++"):
        if found := shutil.which(name):
            # c++ first: it is what the machine's owner has chosen.
            return [found]
    raise BuildError("no c++, g++ or clang++ on the PATH")


def _native_flag() -> str:
    return "-mcpu=native" if platform.machine() in {"aarch64", "arm64"} else "-march=native"


def _run(command: list[str]) -> bytes:
    try:
        done = subprocess.run(command, capture_output=True, timeout=_BUILD_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BuildError(f"{command[0]}: {error}") from error
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        reason = next((line for line in lines if "error" in line), lines[0] if lines else "no message")
        raise BuildError(f"{command[0]} ended with {done.returncode}: {reason}")
    return done.stdout


def _openmp_runtime() -> str:
    """The file of the OpenMP runtime that this process has already loaded; empty if there is none."""
    maps = Path("/proc/self/maps")
    if maps.exists():
        for line in maps.read_text().splitlines():
            path = line.split(maxsplit=5)[-1]
            if Path(path).name.startswith(("libgomp", "libiomp5", "libomp")):
                return path
    return ""


@contextmanager
def _cache_folder() -> Iterator[Path]:
    """The user's cache folder or, if it isn't writable, a private one that is removed at the end."""
    try:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        folder = Path(base) / "headrace"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except (OSError, RuntimeError):  # RuntimeError: the user has no home
        with tempfile.TemporaryDirectory(prefix="headrace-") as private:
            yield Path(private)
    else:
        yield folder


def _declare(lib: ctypes.CDLL) -> ctypes.CDLL:
    """Set each function's argument types: `p`ointer, 32-bit `i`nt, 64-bit `l`ong, `f`loat."""
    types = {"p": ctypes.c_void_p, "i": ctypes.c_int, "l": ctypes.c_int64, "f": ctypes.c_float}
    signatures = {
        "hr_paged_attention": "pppp plpp iiiiii ff ii",
        "hr_rope_and_cache": "ppppppppp lll iiii f ii",
        "hr_rms_norm": "pppp li f ii",
        "hr_silu_and_mul": "pp li ii",
        "hr_invariant_linear": "pppp lii ii",
        "hr_gumbel_argmax": "plppp ll i",
        "hr_argmax": "plp ll i",
        "hr_mask": "pl pl p ll i",
        "hr_best_products": "",
        "hr_decoder_scratch_bytes": "pl",
        "hr_decoder_forward": "pppi",
    }
    returns = {"hr_rope_and_cache", "hr_best_products", "hr_decoder_scratch_bytes", "hr_decoder_forward"}
    for name, signature in signatures.items():
        function = getattr(lib, name)
        function.argtypes = [types[letter] for letter in signature.replace(" ", "")]
        function.restype = ctypes.c_int64 if name in returns else None
    return lib
