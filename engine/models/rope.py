"""Rotary position embedding tables (RoFormer, arXiv 2104.09864)."""

import torch
from torch import Tensor

from .config import ModelConfig


def cos_sin_table(config: ModelConfig, positions: int) -> Tensor:
    """Return float32 [positions, head_dim]: the cosines of each position's angles, then their sines."""
    rope = config.spec.rope
    inverse = rope.inverse_frequencies(config.head_dim)
    angles = torch.outer(torch.arange(positions, dtype=torch.float32), inverse)
    return torch.cat((angles.cos(), angles.sin()), dim=1) * rope.amplitude
