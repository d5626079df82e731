"""What the machine can do at most, measured: copying memory, multiplying matrices.

A fraction of a ceiling says how much is left to gain, which a ratio to a peer can't. What fits
the processor's last cache is read faster than memory is copied, so such a fraction may pass 100 %.
"""

from functools import partial

import torch

from headrace.kernels.linear import pack_linear

from .timing import median_s
from .workload import Shape

_COPY_BYTES = 1 << 30
_PRODUCTS = {
    "cpu": [(512, 1024, 3072), (1024, 1024, 1024), (2048, 2048, 2048)],
    "cuda": [(4096, 4096, 4096), (8192, 8192, 8192)],
}
"""(rows, inputs, outputs); the fastest is the ceiling: libraries are not at their best at every size."""


def copy_bytes_per_s(device: str = "cpu") -> float:
    """Bytes read and written per second by a large copy."""
    source = torch.ones(_COPY_BYTES, dtype=torch.int8, device=device)
    target = torch.empty_like(source)
    return 2 * _COPY_BYTES / median_s(lambda: target.copy_(source), device)


def matmul_flops(device: str = "cpu") -> float:
    """Floating-point operations per second of a large bf16 product, at the best of a few sizes."""
    best = 0.0
    for rows, width, out in _PRODUCTS[device]:
        x = torch.randn(rows, width, dtype=torch.bfloat16, device=device)
        linear = pack_linear(torch.randn(out, width, dtype=torch.bfloat16, device=device), rows_hint=64)
        best = max(best, 2 * rows * width * out / median_s(partial(linear, x), device))
    return best


@torch.inference_mode()
def linears_s(shape: Shape, rows: list[int], device: str = "cpu") -> dict[int, float]:
    """Seconds that all linear maps of one step take alone, at each number of rows.

    Every layer has weights of its own and the head is computed for every row, as in a decode step; for prompt
    chunks, where few rows need the head, this is a little too long.
    """
    sizes = [*(size for _ in range(shape.layers) for size in shape.linears), (shape.vocab, shape.hidden)]
    linears = [
        pack_linear(torch.randn(size, dtype=torch.bfloat16, device=device), rows_hint=64) for size in sizes
    ]
    seconds = {}
    for count in rows:
        inputs = {
            width: torch.randn(count, width, dtype=torch.bfloat16, device=device)
            for width in {width for _, width in sizes}
        }
        seconds[count] = median_s(
            lambda inputs=inputs: [linear(inputs[linear.in_features]) for linear in linears], device
        )
    return seconds
