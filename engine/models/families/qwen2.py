"""Qwen2 and Qwen2.5: queries, keys and values have biases."""

from types import SimpleNamespace

from ..spec import DecoderSpec
from .common import QWEN_DEFAULTS, decoder_spec, qwen_windows
from .family import Family


def _spec(path: str, source: SimpleNamespace) -> DecoderSpec:
    seen = qwen_windows(path, source, first=source.max_window_layers)
    return decoder_spec(path, source, sliding_windows=seen, qkv_bias=True)


FAMILY = Family(name="qwen2", architecture="Qwen2ForCausalLM", defaults=QWEN_DEFAULTS, spec=_spec)
