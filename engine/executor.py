"""The device's side of a step: the weights, the KV cache and one forward pass."""

import torch
from torch import Tensor

from ..kernels.invariant_linear import pack_invariant_linear
from ..kernels.lora import LoraWeight
from .adapters.folder import AdapterReader
from .adapters.store import AdapterStore
from .config import EngineConfig
from .kv_budget import num_pages
from .models.cache import KVCache, kv_dtype
from .models.decoder import CompiledModel, Model
from .protocol import EngineModelInfo
from .scorer import Scorer
from .step_input import StepInput


def _invariant(weight: Tensor) -> LoraWeight:
    return LoraWeight(weight, pack_invariant_linear(weight))


class ModelExecutor:
    """Runs a decoder over its KV cache.

    Attributes:
        adapters: those that steps may have; None if there can be none.
    """

    def __init__(
        self,
        decoder: Model,
        config: EngineConfig,
        info: EngineModelInfo,
        device: torch.device,
        scorer: Scorer | None = None,
    ) -> None:
        self.model_info, self.device, self.scorer = info, device, scorer
        self._decoder = decoder
        self.num_pages = num_pages(decoder, config, info)
        dtype = kv_dtype(config.kv_dtype, decoder.embedding.dtype)
        self.adapters: AdapterStore | None = None
        if config.max_adapters:
            # Twice: what is stored as float32 may be computed as bfloat16. And its header.
            most_bytes = 2 * config.adapter_memory_bytes + (1 << 24)
            reader = AdapterReader(
                decoder.config,
                decoder.embedding.dtype,
                device,
                most_bytes,
                _invariant if config.deterministic else LoraWeight,
                isinstance(decoder, CompiledModel),
            )
            self.adapters = AdapterStore(reader.read, config.max_adapters, config.adapter_memory_bytes)
        self._cache = KVCache.zeros(decoder.config, self.num_pages, config.page_size, dtype, device)

    @torch.inference_mode()
    def execute(self, step: StepInput) -> Tensor:
        """Compute the step; return the float32 logits [S, vocab] of its sampled rows."""
        return self._decoder.forward(step, self._cache)
