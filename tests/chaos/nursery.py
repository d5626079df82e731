"""Engine processes that start in a tenth of a second: forked from a process that has loaded everything.

To them the nursery is their host: it holds the other end of the pipe and is their parent. Another module may
serve processes of its own in the same way. It runs one at a time: an order is a line of JSON on its stdin,
answered with the process id, and with the exit status once the process has ended.
"""

import gc
import json
import os
import select
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


class Nursery:
    """The nursery as a test sees it.

    Args:
        module: what runs, and calls `serve`.
    """

    def __init__(self, module: str = "tests.chaos.nursery") -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            cwd=ROOT,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        self._serial = 0

    def start(self, settings: str, log: Path, **orders: Any) -> "ForkedEngine":
        """Start a process with its settings as JSON; `orders` are the fields of a `Fuse`."""
        self._serial += 1
        worker_id = f"engine-{self._serial}"
        order = {"worker_id": worker_id, "settings": settings, "log": str(log), **orders}
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order).encode() + b"\n")
        return ForkedEngine(self, worker_id, pid=int(self.answer(60.0)))

    def answers(self, timeout_s: float) -> bool:
        """Whether it says something within so long."""
        return bool(select.select([self._process.stdout], [], [], timeout_s)[0])

    def answer(self, timeout_s: float) -> bytes:
        """The next line that it says."""
        assert self._process.stdout is not None
        assert self.answers(timeout_s), f"no answer within {timeout_s} s"
        return self._process.stdout.readline()

    def close(self) -> None:
        """End it, and what it runs."""
        with self._process as process:
            assert process.stdin is not None
            process.stdin.close()
            process.terminate()


class ForkedEngine:
    """An engine process of the nursery's."""

    def __init__(self, nursery: Nursery, worker_id: str, pid: int) -> None:
        self._nursery, self.worker_id, self.pid = nursery, worker_id, pid

    def signal(self, signum: int) -> None:
        os.kill(self.pid, signum)

    def ended(self, timeout_s: float = 0.0) -> bool:
        """Whether it has ended, or does within so long."""
        return self._nursery.answers(timeout_s)

    def wait(self, timeout_s: float = 60.0) -> int:
        """Its exit status; minus the signal that killed it."""
        return int(self._nursery.answer(timeout_s))


def serve(run: Callable[[socket.socket, dict[str, Any]], int]) -> None:
    """Fork a process for each order, until stdin ends; `run` is what it does, and gives its exit status."""
    gc.freeze()  # or every process goes through all that this one has loaded
    for line in sys.stdin:
        order = json.loads(line)
        ours, theirs = socket.socketpair()
        pid = os.fork()
        if pid == 0:
            ours.close()
            os._exit(run(theirs, order))
        theirs.close()
        say(pid)
        _, status = os.waitpid(pid, 0)
        ours.close()
        say(os.waitstatus_to_exitcode(status))


def say(number: int) -> None:
    sys.stdout.write(f"{number}\n")
    sys.stdout.flush()


def preload() -> None:
    """Import all that an engine process imports, by having one model loaded and dropped."""
    from headrace.engine import Engine, EngineConfig
    from headrace.local.demo.paced_engine import keep_pace
    from headrace.workers.engine_process.text import Tokenizer
    from headrace.workers.models import resolve_model

    from . import fault_points  # noqa: F401

    keep_pace(0.003)  # or the small model is done before the last job has been read
    Tokenizer(resolve_model("demo")).chat([{"role": "user", "content": "Hello"}])  # its template is compiled
    Engine(EngineConfig(model=resolve_model("demo"), dtype="float32", device="cpu", threads=1, num_pages=8))


class ForkedIntake:
    """An intake process, forked from its engine process; waited for as a `Popen` is."""

    def __init__(self, end: socket.socket) -> None:
        from headrace.workers.engine_process.intake import process

        kept = os.dup(end.fileno())
        self.pid = os.fork()
        if self.pid == 0:
            os.dup2(kept, 3)
            os.closerange(4, 256)
            process.main(socket.socket(fileno=3))
            os._exit(0)
        os.close(kept)

    def wait(self, timeout_s: float | None = None) -> None:
        os.waitpid(self.pid, 0)

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)


def run_engine(pipe: socket.socket, order: dict[str, Any]) -> int:
    """Be the engine process: as the product starts it, with a fuse."""
    from headrace.workers.engine_process import main as engine_process
    from headrace.workers.engine_process.intake import places
    from headrace.workers.supervision import lifeline
    from headrace.workers.supervision.pipe import LaunchEngine

    from .fault_points import Fault, Fuse, arm

    log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    fuse = Fuse(order["fault"] and Fault(**order["fault"]), order["drain_at"], records=bool(order["record"]))
    arm(fuse)
    launch = LaunchEngine(order["worker_id"], index=0, threads=1, grace_s=20.0, settings=order["settings"])
    places.start_process = ForkedIntake  # type: ignore[assignment]
    lifeline._launch = lambda pipe: launch  # type: ignore[assignment]
    try:
        status = engine_process.main(pipe.detach())
    except BaseException:
        traceback.print_exc()
        return 99
    if order["record"]:
        passed = [asdict(fault) for fault, count in fuse.passed.items() if count]
        Path(order["record"]).write_text(json.dumps(passed))
    return status


if __name__ == "__main__":
    preload()
    serve(run_engine)
