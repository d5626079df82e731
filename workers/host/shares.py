"""Divides a machine among its engine processes: cores evenly, GPUs one each, in turn.

Cores must be in the environment before an engine process imports torch, which the host itself doesn't; a GPU
before it looks for one.
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path

from ..supervision.pipe import GPU_VARIABLE

SPINS = 20_000
"""How long a thread of a team spins at a barrier (some 20 µs) before it sleeps.

By default libgomp's threads spin indefinitely, which is best if the team has its cores to itself. If anything
else wants them, such as Redis or a client, a spinning thread keeps its core from the very thread that it
waits for. Measured with two threads on two cores that others wanted too: 48 tokens/s spinning, 980 to 1,100
with this limit.
"""

_GPU_FILE = re.compile(r"nvidia\d+")


def cores_each(engines: int) -> int:
    """Threads for each of this many engine processes."""
    return max(1, len(os.sched_getaffinity(0)) // engines)


def engine_environment(threads: int, gpu: str | None = None) -> dict[str, str]:
    """The environment variables of an engine process, beyond those of the host."""
    environment = {"OMP_NUM_THREADS": str(threads)}
    if not os.environ.keys() & {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"}:
        environment["GOMP_SPINCOUNT"] = str(SPINS)
    return environment if gpu is None else environment | {GPU_VARIABLE: gpu}


def gpus() -> list[str]:
    """The GPUs that may be used, by CUDA's names for them."""
    visible = os.environ.get(GPU_VARIABLE)
    if visible is not None:
        return [name for name in visible.split(",") if name]
    count = sum(_GPU_FILE.fullmatch(path.name) is not None for path in Path("/dev").iterdir())
    return [str(number) for number in range(count)]


def gpus_of_server(index: int, engines: int, available: Sequence[str]) -> str | None:
    """The GPUs that the server of engine process `index` sees: an equal share of those that there are."""
    each = max(1, len(available) // engines)
    first = index * each % max(1, len(available))
    return ",".join(available[first : first + each]) or None


def gpu_of(device: str, index: int, available: Sequence[str]) -> str | None:
    """The only GPU that engine process `index` sees; None if it doesn't need one.

    With `cuda:N` the first engine process takes GPU N and the others those after it.
    """
    if device == "cpu" or not available:
        return None
    first = int(device.partition(":")[2] or 0)
    return available[(first + index) % len(available)]
