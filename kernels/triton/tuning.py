"""Launch parameters of the kernels, by GPU.

Nothing is tuned while serving. A kernel takes what was measured for its GPU, else the default, which depends
on the operation and its size alone: the same shapes give the same bits in every process. `tune` is how
`MEASURED` is filled: `benchmarks/tune.py` prints what to put here.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache

import torch


@dataclass(frozen=True, slots=True)
class LaunchConfig:
    """A kernel's tile and how it is run.

    Attributes:
        rows, columns: the tile's sides, powers of two; of attention: query rows × heads, and keys.
        warps: warps a program.
        stages: depth of the software pipeline that loads tiles ahead.
    """

    rows: int
    columns: int
    warps: int = 4
    stages: int = 2


Table = dict[tuple[str, int], LaunchConfig]
"""(operation, size) → launch, for sizes up to this one. What the size is, is the operation's own choice."""

DEFAULTS: Table = {
    # Attention's size is the head size, padded to a power of two. These tiles fit the 99 KiB of shared memory
    # of sm86 and compile for sm80, sm90 and gfx942 with next to no spilled registers. Products in full
    # float32 do without tensor cores, and larger tiles of them spill.
    ("attention_decode", 64): LaunchConfig(16, 128, warps=4, stages=3),
    ("attention_decode", 128): LaunchConfig(16, 64, warps=4, stages=3),
    ("attention_decode", 256): LaunchConfig(16, 32, warps=4, stages=3),
    ("attention_prefill", 64): LaunchConfig(128, 64, warps=4, stages=3),
    ("attention_prefill", 128): LaunchConfig(128, 64, warps=8, stages=3),
    ("attention_prefill", 256): LaunchConfig(64, 32, warps=8, stages=2),
    ("attention_prefill_fp8", 64): LaunchConfig(128, 32, warps=4, stages=2),
    ("attention_prefill_fp8", 128): LaunchConfig(128, 32, warps=8, stages=2),
    ("attention_prefill_fp8", 256): LaunchConfig(64, 32, warps=8, stages=2),
    ("attention_float32", 256): LaunchConfig(16, 32, warps=8, stages=2),
    # linear's size is that of an element; the tile spans rows and outputs, and is the same for any number of
    # rows, so that all are summed alike.
    ("linear", 2): LaunchConfig(64, 64, warps=4, stages=3),
    ("linear", 4): LaunchConfig(16, 64, warps=4, stages=2),
    # int4_linear's size is the number of rows; the tile spans this many rows and outputs.
    ("int4_linear", 16): LaunchConfig(16, 64, warps=4, stages=3),
    ("int4_linear", 32): LaunchConfig(32, 64, warps=4, stages=3),
    ("int4_linear", 64): LaunchConfig(64, 64, warps=8, stages=2),
    # moe's size is the mean number of rows an expert gets; the tile spans rows and outputs.
    ("moe", 16): LaunchConfig(16, 64, warps=4, stages=4),
    ("moe", 32): LaunchConfig(32, 64, warps=4, stages=4),
    ("moe", 64): LaunchConfig(64, 128, warps=4, stages=3),
    ("moe", 1 << 40): LaunchConfig(128, 128, warps=8, stages=3),
}

MEASURED: dict[str, Table] = {}
"""By the start of the GPU's name, as in "NVIDIA H100"."""


def launch_of(operation: str, size: int, device: torch.device) -> LaunchConfig:
    """The launch parameters of an operation of this size on this device; never measures."""
    return _lookup(operation, size, gpu_name(device))


@cache
def _lookup(operation: str, size: int, gpu: str) -> LaunchConfig:
    tables = [table for name, table in MEASURED.items() if gpu.startswith(name)]
    for table in (*tables, DEFAULTS):
        sizes = sorted(limit for name, limit in table if name == operation and limit >= size)
        if sizes:
            return table[operation, sizes[0]]
    raise ValueError(f"{operation} has no launch parameters for size {size}")


@cache
def gpu_name(device: torch.device) -> str:
    """The GPU's name as its driver gives it; "interpreter" for the CPU."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "interpreter"


@cache
def multiprocessors(device: torch.device) -> int:
    """How many programs the device runs side by side, at least; 1 in the interpreter."""
    if device.type != "cuda":
        return 1
    count: int = torch.cuda.get_device_properties(device).multi_processor_count
    return count


def tune(
    candidates: Iterable[LaunchConfig], run: Callable[[LaunchConfig], object]
) -> tuple[LaunchConfig, float]:
    """The candidate with the least median time, and that time in milliseconds.

    Args:
        candidates: those that need more shared memory or registers than the GPU has are passed over.
        run: calls the operation with a candidate.

    Raises:
        ValueError: no candidate fits the GPU.
    """
    from triton.runtime.errors import OutOfResources
    from triton.testing import do_bench

    times: dict[LaunchConfig, float] = {}
    for candidate in candidates:
        try:
            times[candidate] = do_bench(lambda launch=candidate: run(launch), return_mode="median")
        except OutOfResources:
            continue
    if not times:
        raise ValueError("no candidate fits this GPU")
    best = min(times, key=times.__getitem__)
    return best, times[best]
