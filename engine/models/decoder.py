"""The decoder of all supported families: pre-norm attention and gated MLPs over paged keys and values.

There are two: one computes operation by operation, for any device and type; the other is a single call of
compiled code, for bfloat16 on a CPU.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from ...kernels.attention import paged_attention
from ...kernels.compiled import CompiledDecoder
from ...kernels.norm import add_rms_norm, rms_norm
from ...kernels.rope_cache import rope_and_cache
from ...kernels.structs import AttentionOptions, Heads, RaggedRows
from ..step_input import StepInput
from .cache import KVCache
from .config import ModelConfig
from .layers import DenseLayer, SparseLayer
from .linears import LinearMap


class Model(Protocol):
    """A loaded model."""

    config: ModelConfig
    embedding: Tensor

    def forward(self, step: StepInput, cache: KVCache) -> Tensor:
        """Write the step's keys and values into the cache; float32 logits [S, vocab] of its sampled rows."""


@dataclass(slots=True)
class Decoder:
    """A model computed operation by operation.

    Attributes:
        embedding: [vocab, hidden].
        cos_sin: float32 [positions, head_dim].
        deterministic: make a row's bits depend only on its own sequence; its maps must, too.
    """

    config: ModelConfig
    embedding: Tensor
    layers: Sequence[DenseLayer[LinearMap] | SparseLayer]
    norm: Tensor
    head: LinearMap
    cos_sin: Tensor
    deterministic: bool = False

    def forward(self, step: StepInput, cache: KVCache) -> Tensor:
        """Write the step's keys and values into the cache; float32 logits [S, vocab] of its sampled rows."""
        config, spec = self.config, self.config.spec
        rows, eps = len(step.token_ids), spec.norm_eps
        scale = config.head_dim**-0.5 if spec.attention_scale is None else spec.attention_scale
        residual = _times(self.embedding[step.token_ids], spec.embedding_multiplier)
        x = rms_norm(residual, self.layers[0].input_norm, eps)
        # The norm before a layer is computed together with the addition that ends the layer before it.
        others = iter(self.layers[1:])
        ragged = RaggedRows(
            step.block_tables, step.query_starts, step.context_lens, step.max_rows, step.max_context
        )
        for index, (layer, kv) in enumerate(zip(self.layers, cache.layers, strict=True)):
            adapt = None if step.adapters is None else partial(step.adapters.add, index)
            heads = Heads(config.num_heads, config.num_kv_heads, layer.q_norm, layer.k_norm, eps)
            qkv = layer.qkv(x)
            if adapt is not None:
                adapt("qkv", x, qkv)
            q = rope_and_cache(qkv, step.positions, step.slots, self.cos_sin, kv, heads)
            options = AttentionOptions(
                scale, layer.sliding_window, spec.attention_soft_cap, self.deterministic
            )
            attended = paged_attention(q, kv, ragged, options).view(rows, -1)
            x = layer.output(attended)
            if adapt is not None:
                adapt("output", attended, x)
            x = _times(x, spec.residual_multiplier)
            x, residual = add_rms_norm(x, residual, layer.mlp_norm, eps)
            x = _times(layer.mlp(x, adapt), spec.residual_multiplier)
            if following := next(others, None):
                x, residual = add_rms_norm(x, residual, following.input_norm, eps)
        residual += x
        if step.pooled is not None:
            step.hidden = rms_norm(residual[step.pooled], self.norm, eps)
        # Before the last norm and the head: the logits of prompt tokens would cost the most, unasked.
        if step.sampled is not None:
            residual = residual[step.sampled]
        logits = _times(self.head(rms_norm(residual, self.norm, eps)), spec.logit_multiplier)
        if cap := spec.logit_soft_cap:
            # In float32: a bfloat16's last place is 0.125 at 30, which ties tokens that differ.
            logits = cap * torch.tanh(logits.to(torch.float32) / cap)
        return logits.to(torch.float32) if step.logits is None else step.logits.copy_(logits)


def _times(x: Tensor, factor: float) -> Tensor:
    """X times the factor; x itself if it is 1, as in most families."""
    return x if factor == 1 else x * factor


@dataclass(slots=True)
class CompiledModel:
    """A model computed in one call per step.

    Attributes:
        embedding: [vocab, hidden].
    """

    config: ModelConfig
    embedding: Tensor
    decoder: CompiledDecoder
    _cache: KVCache | None = field(default=None, init=False)

    def forward(self, step: StepInput, cache: KVCache) -> Tensor:
        """As `Decoder.forward`."""
        if cache is not self._cache:
            self.decoder.bind(cache.keys, cache.values)
            self._cache = cache
        logits, step.hidden = self.decoder(
            step.token_ids,
            step.positions,
            step.slots,
            step.query_starts,
            step.context_lens,
            step.block_tables,
            step.sampled,
            step.pooled,
            None if step.adapters is None else step.adapters.addresses(len(step.token_ids)),
        )
        return logits
