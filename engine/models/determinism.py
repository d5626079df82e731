"""What deterministic mode asks of a model and its device.

A row's bits depend only on its own sequence if every operation computes rows apart and sums in an order that
the number of rows doesn't change. Norms, rotary embedding, attention and the compiled decoder always do;
products do as `InvariantLinear`; what is left are torch operations that don't promise it.
"""

import torch

from ...kernels.invariant_linear import can_be_invariant
from .spec import DecoderSpec


def why_not_deterministic(
    spec: DecoderSpec, dtype: torch.dtype, device: torch.device, fp8_cache: bool
) -> str | None:
    """What deterministic mode lacks for this model here, to follow its name; None if it lacks nothing."""
    if not can_be_invariant(dtype, device):
        if device.type != "cpu":
            return "needs Triton on a GPU, and dtype float32, bfloat16 or float16 (pip install triton)"
        return (
            "needs a C++ compiler (install g++ or clang++), and dtype float32, bfloat16 or float16, "
            f"not {str(dtype).removeprefix('torch.')}"
        )
    if device.type != "cpu":
        return None
    if fp8_cache:
        return "can't be had with kv_dtype fp8 on a CPU, whose attention to it is torch's"
    if spec.activation != "silu":
        return f"doesn't know the activation {spec.activation} on a CPU"
    if spec.logit_soft_cap:
        return "doesn't know soft caps of logits on a CPU"
    return None
