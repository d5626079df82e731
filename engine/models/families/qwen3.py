"""Qwen3: queries and keys are normalised, head by head."""

from types import SimpleNamespace

from ..spec import DecoderSpec
from .common import QWEN_DEFAULTS, decoder_spec, qwen_windows
from .family import Family


def _spec(path: str, source: SimpleNamespace) -> DecoderSpec:
    return decoder_spec(
        path,
        source,
        sliding_windows=qwen_windows(path, source, first=source.max_window_layers),
        qkv_bias=source.attention_bias,
        output_bias=source.attention_bias,
        qk_norm=True,
    )


FAMILY = Family(
    name="qwen3",
    architecture="Qwen3ForCausalLM",
    defaults=QWEN_DEFAULTS | {"head_dim": 128},
    spec=_spec,
)
