"""Which path an operation takes."""

import logging
from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

_TRITON_DTYPES = {torch.float32, torch.bfloat16, torch.float16}


def runs_triton(x: Tensor) -> bool:
    """Whether operations on x run as Triton kernels: it is on a GPU, and they support its dtype."""
    return x.is_cuda and x.dtype in _TRITON_DTYPES and _triton_installed()


@cache
def _triton_installed() -> bool:
    if find_spec("triton") is not None:
        return True
    logger.warning(
        "Triton is not installed, so slower torch operations stand in for the GPU kernels: pip install triton"
    )
    return False
