"""Llama 2 and 3, and models that share their architecture."""

from types import SimpleNamespace

from ..spec import DecoderSpec
from .common import DEFAULTS, decoder_spec, no_windows
from .family import Family


def _spec(path: str, source: SimpleNamespace) -> DecoderSpec:
    return decoder_spec(
        path,
        source,
        sliding_windows=no_windows(path, source, "Llama"),
        qkv_bias=source.attention_bias,
        output_bias=source.attention_bias,
        mlp_bias=source.mlp_bias,
    )


FAMILY = Family(
    name="llama",
    architecture="LlamaForCausalLM",
    defaults=DEFAULTS
    | {
        "vocab_size": 32000,
        "intermediate_size": 11008,
        "max_position_embeddings": 2048,
        "eos_token_id": 2,
    },
    spec=_spec,
)
