"""Each operation in kernels/ against its reference, and against what the machine can do at most.

    python -m benchmarks.kernels [--device cuda] [--threads 2] [--only NAME ...] [--json FILE]

An operation's error is taken at a small, odd size: the largest difference from the float64 reference, as a
part of the reference's largest value (for sampled tokens: the part that differs). Its speed is taken at a
size of real use: bytes it has to move and floating-point operations it has to do, over the median time.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from headrace.kernels.activation import silu_and_mul, silu_and_mul_torch
from headrace.kernels.attention import paged_attention, paged_attention_torch
from headrace.kernels.int4_linear import int4_linear_torch, pack_int4_linear
from headrace.kernels.int4_weight import pack
from headrace.kernels.linear import pack_linear
from headrace.kernels.moe import moe_mlp_torch, pack_experts, route, route_torch
from headrace.kernels.noise import gumbel_argmax, gumbel_argmax_torch
from headrace.kernels.norm import add_rms_norm, add_rms_norm_torch
from headrace.kernels.rope_cache import rope_and_cache, rope_and_cache_torch
from headrace.kernels.sample import sample, sample_torch
from headrace.kernels.structs import (
    AttentionOptions,
    Heads,
    PagedKV,
    RaggedRows,
    SampleNeeds,
    SamplingTable,
)

from .ceilings import copy_bytes_per_s, matmul_flops
from .machine import machine, save
from .tables import kernels_table
from .timing import median_s

PAGE = 16
GROUP = 128
EXPERTS = 8
DTYPE = torch.bfloat16


@dataclass(frozen=True)
class Size:
    """How large the operations are: a layer of some model under some load."""

    batch: int
    context: int
    prompt: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    dim: int
    vocab: int


CHECK = Size(5, 131, 45, 192, 160, 6, 2, 64, 1003)
SIZES = {
    "cpu": Size(64, 512, 1024, 1024, 3072, 16, 8, 128, 32_000),
    "cuda": Size(64, 4096, 8192, 4096, 14_336, 32, 8, 128, 128_256),
}


@dataclass
class Op:
    """One operation with its inputs.

    Attributes:
        run: does it; what it returns is compared.
        reference: the same in float64.
        moved_bytes: that it has to read and write.
        flops: that it has to do; 0 where that is not what takes time.
    """

    run: Callable[[], Tensor]
    reference: Callable[[], Tensor]
    moved_bytes: int
    flops: int = 0


def attention(size: Size, device: str, rows: int, batch: int, context: int) -> Op:
    pages = -(-context // PAGE)
    shape = (batch * pages + 1, size.kv_heads, PAGE, size.dim)
    keys, values = (torch.randn(shape, dtype=DTYPE, device=device) for _ in range(2))
    q = torch.randn(batch * rows, size.heads, size.dim, dtype=DTYPE, device=device)
    tables = torch.randperm(batch * pages, device=device).int().view(batch, pages) + 1
    starts = torch.arange(0, batch * rows + 1, rows, dtype=torch.int32, device=device)
    contexts = torch.full((batch,), context, dtype=torch.int32, device=device)
    scale = size.dim**-0.5
    seen = rows * context - rows * (rows - 1) // 2
    kv_bytes = 2 * batch * context * size.kv_heads * size.dim * 2
    ragged = RaggedRows(tables, starts, contexts, max_rows=1 if rows == 1 else None)
    cache, options = PagedKV(keys, values), AttentionOptions(scale)
    return Op(
        lambda: paged_attention(q, cache, ragged, options),
        lambda: paged_attention_torch(q.double(), PagedKV(keys.double(), values.double()), ragged, options),
        kv_bytes + 2 * q.numel() * 2,
        4 * batch * size.heads * size.dim * seen if rows > 1 else 0,
    )


def decode_attention(size: Size, device: str) -> Op:
    return attention(size, device, 1, size.batch, size.context)


def prefill_attention(size: Size, device: str) -> Op:
    return attention(size, device, size.prompt, 1, size.prompt)


def rope_cache(size: Size, device: str) -> Op:
    rows, heads = size.prompt, size.heads + 2 * size.kv_heads
    qkv = torch.randn(rows, heads * size.dim, dtype=DTYPE, device=device)
    positions = torch.arange(rows, device=device)
    slots = torch.randperm(rows, device=device) + PAGE
    cos_sin = torch.randn(rows, size.dim, device=device)
    caches = torch.zeros(2, -(-rows // PAGE) + 1, size.kv_heads, PAGE, size.dim, dtype=DTYPE, device=device)

    def call(function: Callable[..., Tensor], qkv: Tensor, cos_sin: Tensor, caches: Tensor) -> Tensor:
        heads = Heads(size.heads, size.kv_heads)
        return function(qkv, positions, slots, cos_sin, PagedKV(caches[0], caches[1]), heads)

    return Op(
        lambda: call(rope_and_cache, qkv, cos_sin, caches),
        lambda: call(rope_and_cache_torch, qkv.double(), cos_sin.double(), caches.double()),
        2 * qkv.numel() * 2,
    )


def norm(size: Size, device: str) -> Op:
    x, residual = (torch.randn(size.prompt, size.hidden, dtype=DTYPE, device=device) for _ in range(2))
    weight = torch.randn(size.hidden, dtype=DTYPE, device=device)
    before = residual.clone()
    return Op(
        lambda: add_rms_norm(x, residual, weight, 1e-6)[0],
        lambda: add_rms_norm_torch(x.double(), before.double(), weight.double(), 1e-6)[0],
        4 * x.numel() * 2,
    )


def activation(size: Size, device: str) -> Op:
    x = torch.randn(size.prompt, 2 * size.intermediate, dtype=DTYPE, device=device)
    return Op(lambda: silu_and_mul(x), lambda: silu_and_mul_torch(x.double()), x.numel() * 3)


def linear(rows: int) -> Callable[[Size, str], Op]:
    def make(size: Size, device: str) -> Op:
        weight = torch.randn(size.intermediate, size.hidden, dtype=DTYPE, device=device)
        x = torch.randn(rows, size.hidden, dtype=DTYPE, device=device)
        packed = pack_linear(weight, rows_hint=rows)
        moved = 2 * (weight.numel() + rows * (size.hidden + size.intermediate))
        return Op(
            lambda: packed(x),
            lambda: torch.nn.functional.linear(x.double(), weight.double()),
            moved,
            2 * rows * weight.numel() if rows > 1 else 0,
        )

    return make


def int4_linear(rows: int) -> Callable[[Size, str], Op]:
    def make(size: Size, device: str) -> Op:
        groups = -(-size.hidden // GROUP)
        weight = pack(
            torch.randint(0, 16, (size.hidden, size.intermediate), device=device),
            torch.rand(groups, size.intermediate, dtype=DTYPE, device=device) / 100 + 0.01,
            torch.randint(0, 16, (groups, size.intermediate), device=device),
            GROUP,
        )
        x = torch.randn(rows, size.hidden, dtype=DTYPE, device=device)
        packed = pack_int4_linear(weight, None, DTYPE, rows_hint=rows)
        moved = size.hidden * size.intermediate // 2 + 3 * groups * size.intermediate
        return Op(
            lambda: packed(x),
            lambda: int4_linear_torch(x.double(), weight),
            moved + 2 * rows * (size.hidden + size.intermediate),
            2 * rows * size.hidden * size.intermediate if rows > 1 else 0,
        )

    return make


def experts(size: Size, device: str) -> Op:
    """Eight experts, two for each token of a decode step."""
    gate_up = torch.randn(EXPERTS, 2 * size.intermediate, size.hidden, dtype=DTYPE, device=device) / 10
    down = torch.randn(EXPERTS, size.hidden, size.intermediate, dtype=DTYPE, device=device) / 10
    x = torch.randn(size.batch, size.hidden, dtype=DTYPE, device=device)
    logits = torch.randn(size.batch, EXPERTS, dtype=DTYPE, device=device)
    packed = pack_experts(gate_up, down, rows_hint=max(1, size.batch // 4))

    def reference() -> Tensor:
        routed = route_torch(logits, 2, renormalize=True)
        return moe_mlp_torch(x.double(), gate_up.double(), down.double(), *routed)

    return Op(
        lambda: packed(x, *route(logits, 2, renormalize=True)),
        reference,
        2 * (gate_up.numel() + down.numel()) + 4 * x.numel(),
        12 * size.batch * size.hidden * size.intermediate,
    )


def gumbel(size: Size, device: str) -> Op:
    logits = torch.randn(size.batch, size.vocab, device=device)
    seeds, positions = (torch.arange(size.batch, device=device) for _ in range(2))
    return Op(
        lambda: gumbel_argmax(logits, seeds, positions),
        lambda: gumbel_argmax_torch(logits, seeds, positions),
        logits.numel() * 4,
    )


def full_sample(size: Size, device: str) -> Op:
    """Temperature, top-k, top-p, min-p and penalties, all at once."""
    B = size.batch
    logits = 3 * torch.randn(B, size.vocab, device=device)
    rows, known = torch.arange(B, device=device), torch.full((B,), 100, device=device)

    def every(value: float, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.full((B,), value, dtype=dtype, device=device)

    table = SamplingTable(
        temperature=every(0.8),
        top_k=every(50, torch.int32),
        top_p=every(0.9),
        min_p=every(0.01),
        presence_penalty=every(0.1),
        frequency_penalty=every(0.1),
        repetition_penalty=every(1.1),
        seed=torch.arange(B, device=device),
        tokens=torch.randint(0, size.vocab, (B, 100), device=device),
        lengths=known,
        prompt_lengths=known // 2,
        bias_ids=torch.full((B, 1), -1, dtype=torch.int32, device=device),
        bias_values=torch.zeros(B, 1, device=device),
        bias_until=torch.zeros(B, 1, dtype=torch.int64, device=device),
        logprobs=every(-1, torch.int32),
    )
    needs = SampleNeeds(bias=False)
    return Op(
        lambda: sample(logits.clone(), rows, table, needs).tokens,
        lambda: sample_torch(logits.clone(), rows, table, needs).tokens,
        3 * logits.numel() * 4,
    )


OPS: dict[str, Callable[[Size, str], Op]] = {
    "attention, decode": decode_attention,
    "attention, prefill": prefill_attention,
    "rope and cache": rope_cache,
    "norm with residual": norm,
    "silu and mul": activation,
    "linear, 1 row": linear(1),
    "linear, 64 rows": linear(64),
    "linear, 512 rows": linear(512),
    "int4 linear, 1 row": int4_linear(1),
    "int4 linear, 64 rows": int4_linear(64),
    "experts, 2 of 8": experts,
    "draw": gumbel,
    "sample with all options": full_sample,
}


def error(op: Op) -> float:
    """How far the operation is from its reference."""
    actual, expected = op.run(), op.reference()
    if not actual.is_floating_point():
        return (actual != expected).float().mean().item()
    return ((actual.double() - expected.double()).abs().max() / expected.abs().max()).item()


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=SIZES, default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--only", nargs="*", choices=OPS, default=list(OPS))
    parser.add_argument(
        "--small", action="store_true", help="at the size of the checks: says nothing of speed"
    )
    parser.add_argument(
        "--json", type=Path, help="a file, or a folder to name it in; written after every row"
    )
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    device = options.device
    facts: dict[str, object] = {
        "benchmark": "kernels",
        "machine": machine(),
        "device": device,
        "ceilings": {"copy_bytes_per_s": copy_bytes_per_s(device), "matmul_flops": matmul_flops(device)},
    }
    size, rows = CHECK if options.small else SIZES[device], {}
    for name in options.only:
        try:
            far = error(OPS[name](CHECK, device))
            op = OPS[name](size, device)
            rows[name] = {
                "error": far,
                "seconds": median_s(op.run, device),
                "bytes": op.moved_bytes,
                "flops": op.flops,
            }
        except (RuntimeError, ImportError, NotImplementedError) as failure:
            rows[name] = {"failed": f"{type(failure).__name__}: {failure}".splitlines()[0]}
        facts["rows"] = rows
        if options.json:
            save(facts, options.json, f"kernels-{device}")
    print(kernels_table(facts))


if __name__ == "__main__":
    main()
