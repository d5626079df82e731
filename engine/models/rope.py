"""Rotary position embedding tables (RoFormer, arXiv 2104.09864), with the scalings checkpoints ask for."""

import torch
from torch import Tensor

from .config import ModelConfig


def cos_sin_table(config: ModelConfig, positions: int) -> Tensor:
    """float32 [positions, head_dim]: the cosines of each position's angles, then their sines."""
    inverse, factor = _inverse_frequencies(config)
    angles = torch.outer(torch.arange(positions, dtype=torch.float32), inverse)
    return torch.cat((angles.cos() * factor, angles.sin() * factor), dim=1)


def _inverse_frequencies(config: ModelConfig) -> tuple[Tensor, float]:
    if config.rope_type == "default":
        exponents = torch.arange(0, config.head_dim, 2, dtype=torch.int64).float() / config.head_dim
        return 1.0 / config.rope_theta**exponents, 1.0
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    inverse, factor = ROPE_INIT_FUNCTIONS[config.rope_type](config.source, torch.device("cpu"))
    return inverse.float(), float(factor)
