"""Mistral 7B and its successors: a sliding window in every layer."""

from types import SimpleNamespace

from ..spec import DecoderSpec
from .common import DEFAULTS, decoder_spec, windows
from .family import Family


def _spec(path: str, source: SimpleNamespace) -> DecoderSpec:
    return decoder_spec(path, source, sliding_windows=windows(path, source))


FAMILY = Family(
    name="mistral",
    architecture="MistralForCausalLM",
    defaults=DEFAULTS
    | {
        "vocab_size": 32000,
        "intermediate_size": 14336,
        "max_position_embeddings": 131072,
        "num_key_value_heads": 8,
        "sliding_window": 4096,
        "eos_token_id": 2,
    },
    spec=_spec,
)
