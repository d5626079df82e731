"""The device's side of a step: the weights, the KV cache and one forward pass."""

import torch
from torch import Tensor

from .config import EngineConfig
from .kv_budget import num_pages
from .models.cache import KVCache, kv_dtype
from .models.decoder import Model
from .protocol import EngineModelInfo
from .step_input import StepInput


class ModelExecutor:
    """Runs a decoder over its KV cache."""

    def __init__(
        self, decoder: Model, config: EngineConfig, info: EngineModelInfo, device: torch.device
    ) -> None:
        self.model_info, self.device = info, device
        self._decoder = decoder
        self.num_pages = num_pages(decoder, config, info)
        dtype = kv_dtype(config.kv_dtype, decoder.embedding.dtype)
        self._cache = KVCache.zeros(decoder.config, self.num_pages, config.page_size, dtype, device)

    @torch.inference_mode()
    def execute(self, step: StepInput) -> Tensor:
        """Compute the step; return the float32 logits [S, vocab] of its sampled rows."""
        return self._decoder.forward(step, self._cache)
