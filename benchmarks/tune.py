"""The best launch of each kernel that has a choice, on this GPU: what to put into kernels/triton/tuning.py.

    python -m benchmarks.tune [--only OPERATION ...]

Every entry of the defaults is measured with all candidates, at a size of real use. Most of the time, some
minutes, goes into compiling them.
"""

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product

import torch

from headrace.kernels.int4_weight import pack
from headrace.kernels.moe import route
from headrace.kernels.structs import AttentionOptions, PagedKV, RaggedRows
from headrace.kernels.triton import tuning
from headrace.kernels.triton.attention import paged_attention
from headrace.kernels.triton.int4 import int4_linear
from headrace.kernels.triton.moe import moe_mlp
from headrace.kernels.triton.tuning import LaunchConfig

PAGE, GROUP, TOP_K = 16, 128, 2

Run = Callable[[LaunchConfig], object]


@dataclass(frozen=True)
class Sizes:
    """How large the operations are.

    Attributes:
        batch, context: of decodes; `prompt`: of one chunk, alone.
        moe_tokens: rows an expert, where an entry has no upper limit.
    """

    batch: int
    context: int
    prompt: int
    heads: int
    kv_heads: int
    hidden: int
    intermediate: int
    experts: int
    moe_tokens: int


REAL = Sizes(64, 4096, 8192, 32, 8, 4096, 14_336, 8, 512)


def attention(operation: str, dim: int, sizes: Sizes, device: str) -> Run:
    decode = operation == "attention_decode"
    dtype = torch.float32 if operation == "attention_float32" else torch.bfloat16
    batch, rows, context = (sizes.batch, 1, sizes.context) if decode else (1, sizes.prompt, sizes.prompt)
    pages = -(-context // PAGE)
    shape = (batch * pages + 1, sizes.kv_heads, PAGE, dim)
    cache_dtype = torch.float8_e4m3fn if operation.endswith("fp8") else dtype
    keys, values = (torch.randn(shape, device=device).to(cache_dtype) for _ in range(2))
    q = torch.randn(batch * rows, sizes.heads, dim, dtype=dtype, device=device)
    tables = torch.randperm(batch * pages, device=device).int().view(batch, pages) + 1
    starts = torch.arange(0, batch * rows + 1, rows, dtype=torch.int32, device=device)
    contexts = torch.full((batch,), context, dtype=torch.int32, device=device)
    ragged = RaggedRows(tables, starts, contexts, max_rows=1 if decode else None)
    cache, options = PagedKV(keys, values), AttentionOptions(dim**-0.5)
    return lambda launch: paged_attention(q, cache, ragged, options, launch=launch)


def int4(rows: int, sizes: Sizes, device: str) -> Run:
    groups = -(-sizes.hidden // GROUP)
    weight = pack(
        torch.randint(0, 16, (sizes.hidden, sizes.intermediate), device=device),
        torch.rand(groups, sizes.intermediate, dtype=torch.bfloat16, device=device),
        torch.randint(0, 16, (groups, sizes.intermediate), device=device),
        GROUP,
    )
    x = torch.randn(rows, sizes.hidden, dtype=torch.bfloat16, device=device)
    return lambda launch: int4_linear(x, weight, launch=launch)


def moe(rows: int, sizes: Sizes, device: str) -> Run:
    tokens = min(rows, sizes.moe_tokens) * sizes.experts // TOP_K
    x = torch.randn(tokens, sizes.hidden, dtype=torch.bfloat16, device=device)
    shapes = (2 * sizes.intermediate, sizes.hidden), (sizes.hidden, sizes.intermediate)
    gate_up, down = (
        torch.randn(sizes.experts, *shape, dtype=torch.bfloat16, device=device) for shape in shapes
    )
    routed = route(torch.randn(tokens, sizes.experts, device=device), TOP_K, renormalize=True)
    return lambda launch: moe_mlp(x, gate_up, down, *routed, launch=launch)


def run_of(operation: str, size: int, sizes: Sizes, device: str) -> Run:
    """The operation as an entry of this size is for."""
    if operation == "int4_linear":
        return int4(size, sizes, device)
    if operation == "moe":
        return moe(size, sizes, device)
    return attention(operation, size, sizes, device)


def candidates(operation: str, size: int) -> Iterator[LaunchConfig]:
    """What is worth trying; what does not fit the GPU is passed over."""
    rows: tuple[int, ...] = (16,)
    columns, warps, stages = (32, 64, 128), (4, 8), (2, 3, 4)
    if operation.startswith("attention_prefill"):
        rows = (64, 128)
    elif operation == "int4_linear":
        rows = (size,)
    elif operation == "moe":
        rows, columns = tuple(n for n in (16, 32, 64, 128) if n <= max(16, size)), (64, 128, 256)
    for sides in product(rows, columns, warps, stages):
        yield LaunchConfig(*sides)


def main(sizes: Sizes = REAL, device: str = "cuda", arguments: list[str] | None = None) -> None:
    operations = list(dict.fromkeys(operation for operation, _ in tuning.DEFAULTS))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", choices=operations, default=operations)
    only = parser.parse_args(arguments).only
    torch.manual_seed(0)
    print(f'"{tuning.gpu_name(torch.device(device))}": {{')
    for (operation, size), default in tuning.DEFAULTS.items():
        if operation not in only:
            continue
        run = run_of(operation, size, sizes, device)
        best, took_ms = tuning.tune({default: None} | dict.fromkeys(candidates(operation, size)), run)
        _, default_ms = tuning.tune([default], run)
        print(f'    ("{operation}", {size}): {best},  # {default_ms / took_ms:.2f} times the default')
    print("},")


if __name__ == "__main__":
    main()
