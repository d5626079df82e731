"""Compiles the GPU kernels for a GPU that need not be here; a script of test_triton_compiles.py.

    python compile_kernels.py cuda 80 32 [everywhere]

Launches are caught before they look for a driver: their arguments' types are all that a compilation needs.
With `everywhere`, only what AMD's GPUs run too is compiled. Prints the name of each kernel and the bytes of
shared memory it takes.
"""

import sys
from typing import Any

import flat  # beside this script
import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

from headrace.kernels.int4_weight import pack
from headrace.kernels.structs import SampleNeeds, SamplingTable
from headrace.kernels.triton import (
    activation,
    attention,
    int4,
    linear,
    lora,
    moe,
    norm,
    rope_cache,
    sampling,
    score,
)

_POINTERS = {
    torch.float32: "*fp32",
    torch.float16: "*fp16",
    torch.bfloat16: "*bf16",
    torch.float8_e4m3fn: "*fp8e4nv",
    torch.uint8: "*u8",
    torch.int32: "*i32",
    torch.int64: "*i64",
}


def main() -> None:
    backend, arch, warp, *only = sys.argv[1:]
    target = GPUTarget(backend, int(arch) if arch.isdigit() else arch, int(warp))

    def compile_instead(kernel: Any, *args: Any, grid: Any, warmup: bool, **named: Any) -> None:
        arguments = dict(zip(kernel.arg_names, args, strict=False))
        options = {name: value for name, value in named.items() if name not in kernel.arg_names}
        arguments |= {name: value for name, value in named.items() if name in kernel.arg_names}
        signature, constants, attributes = {}, {}, {}
        for index, parameter in enumerate(kernel.params):
            value = arguments[parameter.name]
            special = isinstance(value, int) and not parameter.do_not_specialize
            if parameter.is_constexpr or value is None or (special and value == 1):
                signature[parameter.name], constants[parameter.name] = "constexpr", value
            elif isinstance(value, torch.Tensor):
                signature[parameter.name] = _POINTERS[value.dtype]
                attributes[(index,)] = [["tt.divisibility", 16]]
            else:
                signature[parameter.name] = "fp32" if isinstance(value, float) else "i32"
                if special and value % 16 == 0:
                    attributes[(index,)] = [["tt.divisibility", 16]]
        source = ASTSource(kernel, signature, constants, attributes)
        compiled = triton.compile(source, target=target, options=options)
        print(kernel.__name__, compiled.metadata.shared)

    JITFunction.run = compile_instead
    if backend == "cuda" and not only:
        launch_sampling()
        launch_weights(torch.bfloat16)
    launch_all(torch.bfloat16, native_fp8=backend == "cuda" and int(arch) >= 89)


def launch_all(dtype: torch.dtype, *, native_fp8: bool) -> None:
    """Each kernel in the variants that differ most."""
    B, heads, kv_heads, dim, page_size = 4, 12, 4, 128, 16
    i32 = torch.zeros(B + 1, dtype=torch.int32)
    tables = torch.zeros(B, 64, dtype=torch.int32)
    cache = torch.zeros(9, kv_heads, page_size, dim, dtype=dtype)
    decode, chunks = torch.zeros(B, heads, dim, dtype=dtype), torch.zeros(99, heads, dim, dtype=dtype)
    run, rope = flat.attention(attention.paged_attention), flat.rope_and_cache(rope_cache.rope_and_cache)
    run(decode, cache, cache, tables, i32, i32[1:], scale=0.1, max_rows=1, splits=4)
    run(chunks, cache, cache, tables, i32, i32[1:], scale=0.1)
    small = cache.to(torch.float8_e4m3fn)
    if native_fp8:
        attention._fp8_as_bytes = lambda cache: cache
    run(decode, small, small, tables, i32, i32[1:], scale=0.1, sliding_window=99, soft_cap=30.0)

    qkv, cos_sin = torch.zeros(B, (heads + 2 * kv_heads) * dim, dtype=dtype), torch.zeros(64, dim)
    at, weight = torch.zeros(B, dtype=torch.int64), torch.zeros(dim, dtype=dtype)
    counts = {"num_heads": heads, "num_kv_heads": kv_heads}
    rope(qkv, at, at, cos_sin, cache, cache, **counts)
    rope(qkv, at, at, cos_sin, small, small, **counts, q_norm=weight, k_norm=weight)

    norm.add_rms_norm(qkv, qkv.clone(), qkv[0].contiguous(), 1e-5)
    activation.silu_and_mul(qkv)
    activation.gelu_tanh_and_mul(qkv)


def launch_sampling() -> None:
    """Sampling with all it can be asked for, and with nothing."""
    rows, vocab = 3, 151_936
    real, whole = torch.zeros(rows), torch.zeros(rows, dtype=torch.int64)
    short, wide = whole.int(), torch.zeros(rows, 5)
    table = SamplingTable(
        temperature=real,
        top_k=short,
        top_p=real,
        min_p=real,
        presence_penalty=real,
        frequency_penalty=real,
        repetition_penalty=real,
        seed=whole,
        tokens=wide.int(),
        lengths=whole,
        prompt_lengths=whole,
        bias_ids=wide.int(),
        bias_values=wide,
        bias_until=wide.long(),
        logprobs=short,
        mask_of=short,
        masks=torch.zeros(rows, vocab // 32, dtype=torch.int32),
    )
    for needs in (SampleNeeds(logprobs=20, mask=True), SampleNeeds(False, False, False)):
        sampling.sample(torch.zeros(rows, vocab), whole, table, needs)
    score.score(torch.zeros(rows, vocab), whole, short, 3)


def launch_weights(dtype: torch.dtype) -> None:
    """Maps of four bits, mixtures of experts, adapters, for few and many rows; and what is deterministic."""
    q, scales = torch.zeros(768, 512, dtype=torch.uint8), torch.zeros(24, 512, dtype=torch.float16)
    bias = torch.zeros(512, dtype=dtype)
    for group, rows, splits in ((32, 1, 2), (128, 60, 1), (-1, 20, 1), (64, 65, None)):
        groups = 1 if group == -1 else 768 // group
        weight = pack(q, scales[:groups], scales[:groups], group)
        int4.int4_linear(torch.zeros(rows, 768, dtype=dtype), weight, bias, splits)
    int4.int4_linear(torch.zeros(65, 768, dtype=dtype), weight, bias, deterministic=True)
    for each in (dtype, torch.float32):
        linear.invariant_linear(
            *(torch.zeros(9, 64, dtype=each) for _ in range(2)), torch.zeros(9, dtype=each)
        )
        x, y, rows = (
            torch.zeros(9, 64, dtype=each),
            torch.zeros(9, 96, dtype=each),
            torch.zeros(9, dtype=torch.int64),
        )
        table = torch.zeros(2, lora.FIELDS, dtype=torch.int64)
        lora.add_lora(x, y, rows, torch.zeros(3, 3, dtype=torch.int32), table)
    gate_up, down = torch.zeros(8, 256, 128, dtype=dtype), torch.zeros(8, 128, 128, dtype=dtype)
    for tokens in (8, 999):
        weights, experts = moe.route(torch.zeros(tokens, 8, dtype=dtype), 2, renormalize=True)
        moe.moe_mlp(torch.zeros(tokens, 128, dtype=dtype), gate_up, down, weights, experts)
    moe.moe_mlp(torch.zeros(tokens, 128, dtype=dtype), gate_up, down, weights, experts, deterministic=True)


if __name__ == "__main__":
    main()
