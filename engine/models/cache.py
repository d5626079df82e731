"""The paged cache of keys and values: its tensors, and the size of a page."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ...kernels.structs import PagedKV
from .config import ModelConfig


@dataclass(slots=True)
class KVCache:
    """Keys and values of all layers, each [layers, pages, kv_heads, page_size, head_dim].

    Attributes:
        layers: the same memory by layer, as kernels take it.
    """

    keys: Tensor
    values: Tensor
    layers: list[PagedKV] = field(init=False)

    def __post_init__(self) -> None:
        self.layers = [PagedKV(keys, values) for keys, values in zip(self.keys, self.values, strict=True)]

    @classmethod
    def zeros(
        cls, config: ModelConfig, pages: int, page_size: int, dtype: torch.dtype, device: torch.device
    ) -> "KVCache":
        """The cache of a model; `dtype` is that of its activations, or float8_e4m3fn."""
        # A page's keys of one head lie together, so that a kernel reads page_size * head_dim elements at a
        # stretch.
        shape = config.num_layers, pages, config.num_kv_heads, page_size, config.head_dim
        return cls(*(torch.zeros(shape, dtype=dtype, device=device) for _ in range(2)))


def page_bytes(config: ModelConfig, page_size: int, dtype: torch.dtype) -> int:
    """The bytes of a page, with the keys and values of all layers."""
    # An example: 28 layers, 8 kv heads of 128, pages of 16 tokens in bfloat16 are 1.75 MiB a page.
    return 2 * config.num_layers * config.num_kv_heads * page_size * config.head_dim * dtype.itemsize


def kv_dtype(name: str | None, dtype: torch.dtype) -> torch.dtype:
    """The type of the cache that `EngineConfig.kv_dtype` asks for, with activations of `dtype`."""
    return dtype if name is None else torch.float8_e4m3fn
