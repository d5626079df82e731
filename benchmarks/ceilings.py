"""What the machine can do at most, measured: copying memory, multiplying matrices.

A fraction of a ceiling says how much is left to gain, which a ratio to a peer can't. So a ceiling is the
fastest run of the fastest way at the best size; no figure that is held against it had that choice. What fits
the processor's last cache is read faster than memory is copied, so that such a fraction may pass 100 %.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from headrace.kernels.linear import pack_linear

from .timing import fastest_s
from .workload import Shape

_COPY_BYTES = 1 << 30
_CPU_SIZES = (384, 512, 768, 1024, 2048)
_GPU_SIZES = (4096, 8192, 16_384)

Way = tuple[torch.dtype, int | None]
"""In this type, as torch multiplies (None), or by weights laid out by oneDNN for so many rows."""

Product = Callable[[Tensor], Tensor]


def copy_bytes_per_s(device: str = "cpu") -> float:
    """Bytes read and written per second by a large copy."""
    source = torch.ones(_COPY_BYTES, dtype=torch.int8, device=device)
    target = torch.empty_like(source)
    return 2 * _COPY_BYTES / fastest_s(lambda: target.copy_(source), device)


def ways(device: str) -> list[Way]:
    """The ways to multiply that may be the fastest: a CPU without bf16 products has float32's only."""
    if device != "cpu":
        return [(torch.bfloat16, None)]
    dtypes = [torch.float32]
    if torch.ops.mkldnn._is_mkldnn_bf16_supported():
        dtypes.append(torch.bfloat16)
    return [(dtype, hint) for dtype in dtypes for hint in (None, 8, 512)]


def matmul_flops(device: str = "cpu", *, int8: bool = False) -> float:
    """Operations per second of square products at their best size and type; with `int8` also of bytes.

    On a CPU every core has a product of its own: none waits for another, or for memory.
    """
    if device != "cpu":
        return max(_square_flops(size, device) for size in _GPU_SIZES)
    threads = torch.get_num_threads()
    with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as cores:
        best = max(sum(cores.map(_square_flops, [size] * threads)) for size in _CPU_SIZES)
        if int8:
            best = max(best, *(sum(cores.map(_square_int8_ops, [size] * threads)) for size in _CPU_SIZES))
    torch.set_num_threads(threads)  # the cores' own settings reach some libraries of this thread
    return best


@torch.inference_mode()
def _square_flops(size: int, device: str = "cpu") -> float:
    best = 0.0
    for dtype, hint in ways(device):
        x, weight = (torch.randn(size, size, dtype=dtype, device=device) for _ in range(2))
        best = max(best, 2 * size**3 / fastest_s(partial(_product(weight, hint), x), device, 0.1))
    return best


@torch.inference_mode()
def _square_int8_ops(size: int) -> float:
    ops = torch.ops.onednn
    x = torch.randint(0, 256, (size, size), dtype=torch.uint8)
    weight = ops.qlinear_prepack(torch.randint(-128, 128, (size, size), dtype=torch.int8), [size, size])
    scales, zeros = torch.ones(size), torch.zeros(size, dtype=torch.int64)
    plain = (None, 1.0, 0, torch.float32, "none", [], "")
    run = partial(ops.qlinear_pointwise, x, 1.0, 0, weight, scales, zeros, *plain)
    return 2 * size**3 / fastest_s(run, budget_s=0.1)


def _product(weight: Tensor, hint: int | None) -> Product:
    return partial(F.linear, weight=weight) if hint is None else pack_linear(weight, rows_hint=hint)


@torch.inference_mode()
def linears_s(shape: Shape, rows: list[int], device: str = "cpu") -> dict[str, dict[int, float]]:
    """Seconds that a step's linear maps take alone, at each number of rows, by their fastest packing.

    Those of the layers, which all have weights of their own, and that of the head apart: rows of prompt
    chunks need none.
    """
    layers = [size for _ in range(shape.layers) for size in shape.linears]
    parts = {"layers": layers, "head": [(shape.vocab, shape.hidden)]}
    return {part: _fastest_linears_s(sizes, rows, device) for part, sizes in parts.items()}


def _fastest_linears_s(sizes: list[tuple[int, int]], rows: list[int], device: str) -> dict[int, float]:
    best = dict.fromkeys(rows, float("inf"))
    for dtype, hint in ways(device):  # one at a time: a large model's weights fit no machine several times
        weights = (torch.randn(size, dtype=dtype, device=device) for size in sizes)
        products = [(_product(weight, hint), weight.shape[1]) for weight in weights]
        for count in rows:
            inputs = {
                width: torch.randn(count, width, dtype=dtype, device=device)
                for width in {width for _, width in sizes}
            }
            best[count] = min(best[count], fastest_s(partial(_run, products, inputs), device))
    return best


def _run(products: list[tuple[Product, int]], inputs: dict[int, Tensor]) -> None:
    for product, width in products:
        product(inputs[width])
