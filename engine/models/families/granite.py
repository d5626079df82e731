"""Granite 3: Llama with factors on embeddings, attention scores, the residual and logits."""

from types import SimpleNamespace

from ..spec import DecoderSpec
from .common import DEFAULTS, decoder_spec, no_windows
from .family import Family


def _spec(path: str, source: SimpleNamespace) -> DecoderSpec:
    return decoder_spec(
        path,
        source,
        sliding_windows=no_windows(path, source, "Granite"),
        qkv_bias=source.attention_bias,
        output_bias=source.attention_bias,
        mlp_bias=source.mlp_bias,
        embedding_multiplier=source.embedding_multiplier,
        attention_scale=source.attention_multiplier,
        residual_multiplier=source.residual_multiplier,
        logit_multiplier=1 / source.logits_scaling,
    )


FAMILY = Family(
    name="granite",
    architecture="GraniteForCausalLM",
    defaults=DEFAULTS
    | {
        "vocab_size": 32000,
        "intermediate_size": 11008,
        "max_position_embeddings": 2048,
        "eos_token_id": 2,
        "embedding_multiplier": 1.0,
        "attention_multiplier": 1.0,
        "residual_multiplier": 1.0,
        "logits_scaling": 1.0,
    },
    spec=_spec,
)
