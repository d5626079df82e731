"""A whole step of a bfloat16 decoder in one call, on CPUs.

With few rows, an operation takes about as long as its dispatch, and between two operations the cores wait for
each other and for the next weights. `CompiledDecoder` avoids both: its layers run in one team of threads
(csrc/decoder.cpp), on weights packed by `pack_panels`.
"""

import ctypes
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from .lora import LoraMap
from .native import shared_library

PRODUCTS = ("plain", "avx512", "amx")
"""Ways to multiply, slowest first: with any CPU's vectors, with AVX-512 BF16 and VNNI, or with AMX."""

# Two vectors of 16 floats, the halves of a panel.
_PANEL = 32
"""Outputs."""
_STEP_BYTES = 64
"""Number of a row's inputs that are multiplied at once."""


@dataclass(slots=True, frozen=True)
class Panels:
    """A linear map's weight in the layout of csrc/panels.h, and its bias.

    Attributes:
        weight: bfloat16, or int8 to be multiplied by `scales`.
        scales: float32 [out] for int8, otherwise None.
        offsets: int32 [out] for int8: 128 times the sum of an output's weights, before scaling.
    """

    weight: Tensor
    scales: Tensor | None
    offsets: Tensor | None
    bias: Tensor | None
    in_features: int
    out_features: int


class LayerPanels(Protocol):
    """One layer's weights: norms [hidden], per-head norms [head_dim], projections of the same input fused."""

    @property
    def input_norm(self) -> Tensor: ...
    @property
    def qkv(self) -> Panels: ...
    @property
    def output(self) -> Panels: ...
    @property
    def mlp_norm(self) -> Tensor: ...
    @property
    def gate_up(self) -> Panels: ...
    @property
    def down(self) -> Panels: ...
    @property
    def q_norm(self) -> Tensor | None: ...
    @property
    def k_norm(self) -> Tensor | None: ...
    @property
    def sliding_window(self) -> int: ...


LORA_MAPS = ("qkv", "output", "gate_up", "down")
"""A layer's maps that an adapter may change, in order."""

LORA_INNER = 3 * 64
"""The inner values of a map's adapter at most: three parts of rank 64."""


class CompiledLora:
    """An adapter as a `CompiledDecoder` takes it.

    Attributes:
        address: where its maps are; valid as long as this object lives.
    """

    __slots__ = ("_kept", "_maps", "address")

    def __init__(self, layers: Sequence[Mapping[str, LoraMap]]) -> None:
        """Lay out an adapter of bfloat16 weights, by layer and by name (`LORA_MAPS`)."""
        self._kept: list[Tensor] = []
        self._maps = (_LoraMap * (len(layers) * len(LORA_MAPS)))()
        for index, layer in enumerate(layers):
            for place, name in enumerate(LORA_MAPS):
                if (lora := layer.get(name)) is not None:
                    self._maps[index * len(LORA_MAPS) + place] = self._map(lora)
        self.address = ctypes.addressof(self._maps)

    def _map(self, lora: LoraMap) -> "_LoraMap":
        down = lora.down.weight
        made = _LoraMap(self._address(down), len(down), len(lora.parts))
        for place, part in enumerate(lora.parts):
            up = part.up.weight.T.contiguous()
            rank, width = up.shape
            made.part[place] = _LoraPart(self._address(up), part.inner.start, rank, part.outputs.start, width)
        return made

    def _address(self, weight: Tensor) -> int:
        if weight.dtype != torch.bfloat16 or not weight.is_contiguous():
            raise ValueError(f"an adapter's weights must be contiguous bfloat16, not {weight.dtype}")
        self._kept.append(weight)
        return weight.data_ptr()


def can_compile(dtype: torch.dtype, device: torch.device, *in_features: int) -> bool:
    """Whether a `CompiledDecoder` whose products have inputs of these sizes can run here."""
    if dtype != torch.bfloat16 or device.type != "cpu" or any(width % _PANEL for width in in_features):
        return False
    return shared_library() is not None


def products_here() -> tuple[str, ...]:
    """Those of PRODUCTS that this machine supports, the fastest last; none without a compiler."""
    lib = shared_library()
    return () if lib is None else PRODUCTS[: lib.hr_best_products() + 1]


def pack_panels(weight: Tensor, bias: Tensor | None = None, *, int8: bool = False) -> Panels:
    """Lay out a weight for the CPU's products.

    Args:
        weight: bfloat16 [out, in]; in is a multiple of 32.
        bias: bfloat16 [out].
        int8: round each output's weights to 255 levels between plus and minus the largest one, with an error
            of up to 1/254 of that. The product then rounds each row of its input in the same way.
    """
    outputs, inputs = weight.shape
    scales = offsets = None
    step = _STEP_BYTES // 2
    if int8:
        # 127 and not 128: levels from -127 to 127, so that a weight and its negative are rounded alike.
        scales = (weight.float().abs().amax(1) / 127).clamp_(min=torch.finfo(torch.float32).tiny)
        weight = (weight.float() / scales[:, None]).round_().to(torch.int8)
        # VNNI multiplies unsigned by signed bytes. Inputs are moved up by 128 to be unsigned, which adds 128
        # times the weights' sum to each output; that is what is taken off again.
        offsets = 128 * weight.sum(1, dtype=torch.int32)
        step = _STEP_BYTES
    padded = F.pad(weight, (0, -inputs % step, 0, -outputs % _PANEL))
    # panel and its half, output, step, four bytes' group, input of the group
    tiles = padded.view(-1, 2, 16, padded.shape[1] // step, 16, step // 16)
    return Panels(tiles.permute(0, 1, 3, 4, 2, 5).contiguous(), scales, offsets, bias, inputs, outputs)


class CompiledDecoder:
    """A decoder's layers from the embedding to the logits. Only one thread may call it."""

    def __init__(
        self,
        layers: Sequence[LayerPanels],
        embedding: Tensor,
        norm: Tensor,
        head: Panels,
        cos_sin: Tensor,
        *,
        num_heads: int,
        num_kv_heads: int,
        eps: float,
        products: str | None = None,
    ) -> None:
        """Take over weights for which `can_compile` is true.

        Args:
            layers: in order.
            embedding: [vocab, hidden].
            norm: [hidden], the final norm.
            head: the map from hidden to the vocabulary.
            cos_sin: float32 [positions, head_dim], as `rope_and_cache` takes it.
            num_heads: number of query heads.
            num_kv_heads: number of key and value heads.
            eps: epsilon of all norms.
            products: one of `products_here()`; None means the fastest.
        """
        self._kept = layers, embedding, norm, head, cos_sin  # C has their addresses
        self._head_dim = cos_sin.shape[1]
        self._layers = (_DecoderLayer * len(layers))(*(_layer(layer) for layer in layers))
        self._model = _DecoderModel(
            layers=ctypes.addressof(self._layers),
            embedding=embedding.data_ptr(),
            norm=norm.data_ptr(),
            cos_sin=cos_sin.data_ptr(),
            head=_linear(head),
            num_layers=len(layers),
            max_positions=cos_sin.shape[0],
            heads=num_heads,
            kv_heads=num_kv_heads,
            dim=self._head_dim,
            eps=eps,
            scale=self._head_dim**-0.5,
            products=PRODUCTS.index(products or products_here()[-1]),
        )
        # Rounded up: with a vector's outputs more, no row's end needs care.
        self._widest = 64 + max(
            part.out_features for layer in layers for part in (layer.qkv, layer.output, layer.gate_up)
        )
        self._hidden, self._vocab = head.in_features, head.out_features
        self._rows = 0
        self._scratch = torch.empty(0)

    def bind(self, keys: Tensor, values: Tensor) -> None:
        """Use this cache: keys and values [layers, pages, kv_heads, page_size, head_dim]."""
        shape = (len(self._layers), keys.shape[1], self._model.kv_heads, keys.shape[3], self._head_dim)
        for cache in (keys, values):
            if cache.shape != shape or cache.dtype != torch.bfloat16 or not cache.is_contiguous():
                raise ValueError(
                    f"the cache must be contiguous bfloat16 {shape}, not {cache.dtype} {cache.shape}"
                )
        for layer, k, v in zip(self._layers, keys, values, strict=True):
            layer.keys, layer.values = k.data_ptr(), v.data_ptr()
        self._model.num_slots, self._model.page_size = keys.shape[1] * keys.shape[3], keys.shape[3]
        self._cache = keys, values

    def __call__(
        self,
        token_ids: Tensor,
        positions: Tensor,
        slots: Tensor,
        query_starts: Tensor,
        context_lens: Tensor,
        block_tables: Tensor,
        sampled: Tensor | None,
        pooled: Tensor | None = None,
        adapters: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Write the tokens' keys and values into the cache; return float32 logits [S, vocab] of the sampled
        rows, and bfloat16 hidden states [P, hidden] of the pooled ones after the final norm.

        Args:
            token_ids: int64 [T].
            positions: int64 [T].
            slots: int64 [T].
            query_starts: int32 [B + 1]; this and the next two are as in `paged_attention`.
            context_lens: int32 [B].
            block_tables: int32 [B, P].
            sampled: int64 [S], ascending; None means all rows.
            pooled: int64 [P], ascending, all above the sampled ones; only with `sampled`.
            adapters: int64 [T], the `CompiledLora.address` of each token's adapter, 0 for none; None if no
                token has one.

        Raises:
            IndexError: a position or slot is outside its table; nothing was written.
        """
        lib = shared_library()
        assert lib is not None
        rows, batch = token_ids.shape[0], context_lens.shape[0]
        wanted = rows if sampled is None else sampled.shape[0]
        hidden = None
        if pooled is not None:
            if sampled is None:
                raise ValueError("pooled rows need sampled ones to be named, too")
            hidden = torch.empty(len(pooled), self._hidden, dtype=torch.bfloat16)
            sampled = torch.cat([sampled, pooled])
        integers = [
            *(token_ids, positions, slots),
            *(each for each in (sampled, adapters) if each is not None),
        ]
        _check(integers, torch.int64)
        _check([query_starts, context_lens], torch.int32)
        if block_tables.dtype != torch.int32 or block_tables.stride(1) != 1:
            raise ValueError("block_tables must be int32 with adjacent elements")
        if positions.shape[0] != rows or slots.shape[0] != rows or query_starts.shape[0] != batch + 1:
            raise ValueError(f"{rows} tokens of {batch} sequences do not fit the other inputs")
        if rows > self._rows:
            # Grown, never shrunk: scratch for the largest step so far.
            self._rows = rows
            size = lib.hr_decoder_scratch_bytes(ctypes.byref(self._model), rows)
            self._scratch = torch.empty(size, dtype=torch.uint8)
        inner = added = None
        if adapters is not None:
            if adapters.shape[0] != rows:
                raise ValueError(f"{adapters.shape[0]} adapters do not fit {rows} tokens")
            inner, added = torch.empty(rows, LORA_INNER), torch.empty(rows, self._widest)
        logits = torch.empty(wanted, self._vocab)
        step = _DecoderStep(
            token_ids.data_ptr(),
            positions.data_ptr(),
            slots.data_ptr(),
            None if sampled is None else sampled.data_ptr(),
            query_starts.data_ptr(),
            context_lens.data_ptr(),
            block_tables.data_ptr(),
            logits.data_ptr(),
            None if hidden is None else hidden.data_ptr(),
            rows,
            rows if sampled is None else sampled.shape[0],
            wanted,
            batch,
            block_tables.stride(0),
            None if adapters is None else adapters.data_ptr(),
            None if inner is None else inner.data_ptr(),
            None if added is None else added.data_ptr(),
            self._widest,
        )
        # ctypes lets go of the interpreter for the call: the engine process's other threads run meanwhile.
        refused = lib.hr_decoder_forward(
            ctypes.byref(self._model), ctypes.byref(step), self._scratch.data_ptr(), torch.get_num_threads()
        )
        if refused >= 0:
            raise IndexError(
                f"token {refused}: position {positions[refused]} or slot {slots[refused]} is outside"
            )
        return logits, hidden


def _check(tensors: Sequence[Tensor], dtype: torch.dtype) -> None:
    """Refuse what compiled code, which only sees addresses, would misread."""
    for tensor in tensors:
        if tensor.dtype != dtype or not tensor.is_contiguous():
            raise ValueError(f"inputs must be contiguous {dtype}, not {tensor.dtype} {tensor.stride()}")


# What csrc/lora.h calls LoraPart and LoraMap.


class _LoraPart(ctypes.Structure):
    _fields_ = (
        ("up", ctypes.c_void_p),
        *((name, ctypes.c_int) for name in ("inner", "rank", "output", "width")),
    )


class _LoraMap(ctypes.Structure):
    _fields_ = (
        ("down", ctypes.c_void_p),
        *((name, ctypes.c_int) for name in ("inner", "parts")),
        ("part", _LoraPart * 3),
    )


# What csrc/decoder.cpp calls Linear, DecoderLayer, DecoderModel and DecoderStep.


class _LinearStruct(ctypes.Structure):
    _fields_ = (
        ("panels", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("scales", ctypes.c_void_p),
        ("offsets", ctypes.c_void_p),
        ("inputs", ctypes.c_int),
        ("outputs", ctypes.c_int),
    )


class _DecoderLayer(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("input_norm", "mlp_norm", "q_norm", "k_norm")),
        *((name, _LinearStruct) for name in ("qkv", "output", "gate_up", "down")),
        *((name, ctypes.c_void_p) for name in ("keys", "values")),
        ("window", ctypes.c_int64),
    )


class _DecoderModel(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("layers", "embedding", "norm", "cos_sin")),
        ("head", _LinearStruct),
        *((name, ctypes.c_int64) for name in ("num_layers", "max_positions", "num_slots")),
        *((name, ctypes.c_int) for name in ("heads", "kv_heads", "dim", "page_size")),
        *((name, ctypes.c_float) for name in ("eps", "scale")),
        ("products", ctypes.c_int),
    )


class _DecoderStep(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("token_ids", "positions", "slots", "sampled")),
        *((name, ctypes.c_void_p) for name in ("query_starts", "context_lens", "tables", "logits", "hidden")),
        *((name, ctypes.c_int64) for name in ("rows", "kept_rows", "sampled_rows", "batch", "table_stride")),
        *((name, ctypes.c_void_p) for name in ("adapters", "inner", "added")),
        ("added_stride", ctypes.c_int64),
    )


def _linear(panels: Panels) -> _LinearStruct:
    tensors = panels.weight, panels.bias, panels.scales, panels.offsets
    addresses = (None if x is None else x.data_ptr() for x in tensors)
    return _LinearStruct(*addresses, panels.in_features, panels.out_features)


def _layer(layer: LayerPanels) -> _DecoderLayer:
    return _DecoderLayer(
        input_norm=layer.input_norm.data_ptr(),
        mlp_norm=layer.mlp_norm.data_ptr(),
        q_norm=None if layer.q_norm is None else layer.q_norm.data_ptr(),
        k_norm=None if layer.k_norm is None else layer.k_norm.data_ptr(),
        qkv=_linear(layer.qkv),
        output=_linear(layer.output),
        gate_up=_linear(layer.gate_up),
        down=_linear(layer.down),
        window=layer.sliding_window,
    )
