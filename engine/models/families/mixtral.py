"""Mixtral 8x7B and 8x22B: Mistral with experts in every layer."""

from types import SimpleNamespace

from ..mixture import Mixture
from ..spec import DecoderSpec
from ..tensor_names import ExpertNames, TensorNames
from .common import DEFAULTS, checked, decoder_spec, windows
from .family import Family


def _spec(path: str, source: SimpleNamespace) -> DecoderSpec:
    mixture = Mixture(
        experts=source.num_local_experts,
        top_k=source.num_experts_per_tok,
        intermediate_size=source.intermediate_size,
        renormalize=True,
        sparse=(True,) * source.num_hidden_layers,
    )
    return decoder_spec(path, source, sliding_windows=windows(path, source), mixture=checked(path, mixture))


FAMILY = Family(
    name="mixtral",
    architecture="MixtralForCausalLM",
    defaults=DEFAULTS
    | {
        "vocab_size": 32000,
        "intermediate_size": 14336,
        "max_position_embeddings": 131072,
        "num_key_value_heads": 8,
        "rms_norm_eps": 1e-5,
        "eos_token_id": 2,
        "rope_theta": 1e6,
        "num_local_experts": 8,
        "num_experts_per_tok": 2,
    },
    spec=_spec,
    tensors=TensorNames(experts=ExpertNames("block_sparse_moe", gate="w1", up="w3", down="w2")),
)
