"""A contender: one engine with one loaded model, in a process of its own.

Only one contender runs at a time. The others are stopped with SIGSTOP, so that no idle thread of theirs,
however it waits, takes time from the one that is measured. So each has its cores to itself, and all wait at
their barriers as their libraries do by default (`GOMP_SPINCOUNT`, `OMP_WAIT_POLICY`): what a worker's host
sets for its engine processes is for cores that others want too.

Each is a process group of this session: should this process die, the kernel wakes and hangs up stopped
groups, and nothing stays behind.
"""

import json
import os
import selectors
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .workload import Item

PEERS = Path(__file__).parent / "peers"
WAITING = {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"}
END_S = 5
"""A contender may take this long to end by itself."""


class Lost(Exception):
    """The contender can't be measured; the message says why."""


class Contender:
    """A started contender; make one with `contender`.

    Attributes:
        versions: of its packages, known once it is ready.
    """

    def __init__(self, name: str, process: subprocess.Popen[str], log: Path) -> None:
        self.name = name
        self.versions: dict[str, str] = {}
        self._process, self._log = process, log

    def wait_ready(self, timeout_s: float) -> None:
        """Wait for its model to be loaded, then let it sleep.

        Raises:
            Lost: it has ended, or is not ready in time.
        """
        self.versions = self._read(timeout_s)["versions"]
        self._signal(signal.SIGSTOP)

    def run(self, items: list[Item], timeout_s: float) -> float:
        """Seconds to answer all items, given at once.

        Raises:
            Lost: it has ended, takes too long, or made another number of tokens than was asked for.
        """
        self._signal(signal.SIGCONT)
        try:
            print(
                json.dumps([(i.prompt_ids, i.output_tokens) for i in items]),
                file=self._process.stdin,
                flush=True,
            )
            facts = self._read(timeout_s)
        except BrokenPipeError:
            raise Lost(self._last_words()) from None
        self._signal(signal.SIGSTOP)
        if facts["tokens"] != [item.output_tokens for item in items]:
            asked = sum(item.output_tokens for item in items)
            raise Lost(f"made {sum(facts['tokens'])} tokens where {asked} were asked for")
        return facts["seconds"]

    def close(self) -> None:
        """End it; a contender that does not end by itself is killed."""
        self._signal(signal.SIGCONT)
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(END_S)
        self._signal(signal.SIGKILL)
        self._process.wait()
        self._process.stdout.close()

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def _read(self, timeout_s: float) -> dict:
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            if not selector.select(timeout_s):
                raise Lost(f"no answer within {timeout_s:.0f} s")
        line = self._process.stdout.readline()
        if not line:
            raise Lost(self._last_words())
        return json.loads(line)

    def _last_words(self) -> str:
        with suppress(subprocess.TimeoutExpired):
            if (status := self._process.wait(END_S)) < 0:
                return f"ended by {signal.Signals(-status).name}"
        lines = [line for line in self._log.read_text(errors="replace").splitlines() if line.strip()]
        return lines[-1].strip()[:200] if lines else "it ended without a word"


@contextmanager
def contender(name: str, python: Path, spec: dict[str, object], folder: Path) -> Iterator[Contender]:
    """Start the contender of `peers/<name>.py`; it is killed at the end.

    Args:
        name: of the file.
        python: of the contender's environment.
        spec: the keyword arguments of its `load`.
        folder: for its log and scratch files.
    """
    file, log = folder / f"{name}.json", folder / f"{name}.log"
    file.write_text(json.dumps(spec))
    environment = {name: value for name, value in os.environ.items() if name not in WAITING}
    with log.open("w") as errors:
        process = subprocess.Popen(
            [python, "-P", PEERS / "main.py", name, file],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            process_group=0,
            env=environment | {"OMP_NUM_THREADS": str(spec["threads"])},
        )
    started = Contender(name, process, log)
    try:
        yield started
    finally:
        started.close()
