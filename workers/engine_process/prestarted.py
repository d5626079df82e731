"""An engine process that is started before it is needed: it does its imports, and waits for its turn.

    python -m headrace.workers.engine_process.prestarted <program> <fd>

Where `python <program> <fd>` would start an engine process (`-m <module>` or a script, with its arguments),
this runs the same program as soon as the host sends instructions, which the program reads from the pipe. It
has no model and no connection until then, and hasn't touched a GPU.

A module's imports are done at once (a script's can't be without running it), and give way to everything else
on the machine. So do those of its intake process, which is started then too.
"""

import gc
import importlib
import runpy
import select
import signal
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from ...telemetry import logs
from ..supervision.lifeline import at_parents_end
from ..supervision.pipe import Imported, encode
from .gently import gently

IDLE_NAME = "headrace-spare"
"""What `ps -e` and `top` call it until it has instructions."""

ENGINE, INTAKE = "headrace.engine.engine", "headrace.workers.engine_process.intake.places"
_NAME = Path("/proc/self/comm")


def main(program: Sequence[str], pipe_fd: int) -> None:
    """Import what the program needs, wait for instructions, and be that program."""
    at_parents_end(signal.SIGKILL)  # what runs later lets an engine process hand over instead
    name = _NAME.read_text()
    _call_me(IDLE_NAME)
    is_module = program[0] == "-m"
    if is_module and not gently(lambda: _import(program[1])):
        sys.exit(1)
    if INTAKE in sys.modules:
        sys.modules[INTAKE].start_early()
    gc.collect()
    gc.freeze()
    gc.enable()
    if not _called(pipe_fd):
        return
    _call_me(name)
    sys.argv[:] = [*program[is_module:], str(pipe_fd)]
    if is_module:
        sys.modules.pop(program[1])  # it is __main__ from now on, as if it had been started
        runpy.run_module(program[1], run_name="__main__", alter_sys=True)
    else:
        sys.path[0] = str(Path(program[0]).parent)
        runpy.run_path(program[0], run_name="__main__")


def _import(module: str) -> None:
    importlib.import_module(module)
    if INTAKE in sys.modules:
        importlib.import_module(ENGINE)  # which it would import only once it is told to load a model


def _called(pipe_fd: int) -> bool:
    """Tell the host, and wait until it sends something, which is left in the pipe; False if it is gone."""
    pipe = socket.socket(fileno=pipe_fd)
    try:
        pipe.sendall(encode(Imported()))
        select.select([pipe], [], [])
        return bool(pipe.recv(1, socket.MSG_PEEK))
    except ConnectionError:
        return False
    finally:
        pipe.detach()


def _call_me(name: str) -> None:
    with suppress(OSError):
        _NAME.write_text(name)


if __name__ == "__main__":
    gc.disable()  # see `main`
    logs.configure("info")
    *its_program, fd = sys.argv[1:]
    main(its_program, int(fd))
