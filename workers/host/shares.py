"""Shares a machine out among its engine processes: cores evenly, GPUs one each, in turn.

All of it has to be in the environment before an engine process imports torch, and the host itself imports
none.
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path

SPINS = 20_000
"""How long a thread of a team spins at a barrier (some 20 µs) before it sleeps.

By default libgomp's threads spin for as long as it takes, which is best where the team has its cores to
itself. Where anything else wants them, Redis or a client for one, a spinning thread keeps its core from the
thread that it waits for. Measured on two cores, both wanted by others, two threads: 48 tokens/s spinning, 980
to 1,100 so.
"""

GPU_VARIABLE = "CUDA_VISIBLE_DEVICES"
_GPU_FILE = re.compile(r"nvidia\d+")


def cores_each(engines: int) -> int:
    """Threads for each of so many engine processes."""
    return max(1, len(os.sched_getaffinity(0)) // engines)


def engine_environment(device: str, index: int, threads: int) -> dict[str, str]:
    """What the engine process `index` gets on top of the host's own environment."""
    environment = {"OMP_NUM_THREADS": str(threads)}
    if not os.environ.keys() & {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"}:
        environment["GOMP_SPINCOUNT"] = str(SPINS)
    gpu = gpu_of(device, index, gpus())
    return environment if gpu is None else environment | {GPU_VARIABLE: gpu}


def gpus() -> list[str]:
    """The GPUs that this machine lets us use, by the names that CUDA knows them by."""
    visible = os.environ.get(GPU_VARIABLE)
    if visible is not None:
        return [name for name in visible.split(",") if name]
    count = sum(_GPU_FILE.fullmatch(path.name) is not None for path in Path("/dev").iterdir())
    return [str(number) for number in range(count)]


def gpu_of(device: str, index: int, available: Sequence[str]) -> str | None:
    """The one GPU that the engine process `index` sees; None when it needs none.

    With `cuda:N` the first engine process takes GPU N and the others those after it.
    """
    if device == "cpu" or not available:
        return None
    first = int(device.partition(":")[2] or 0)
    return available[(first + index) % len(available)]
