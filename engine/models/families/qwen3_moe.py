"""Qwen3 with experts in some or all of its layers."""

from types import SimpleNamespace

from ..mixture import Mixture
from ..spec import DecoderSpec
from .common import DEFAULTS, checked, decoder_spec, qwen_windows
from .family import Family


def _spec(path: str, source: SimpleNamespace) -> DecoderSpec:
    dense, step = getattr(source, "mlp_only_layers", None) or (), source.decoder_sparse_step
    mixture = Mixture(
        # transformers 4 writes num_experts, 5 num_local_experts
        experts=getattr(source, "num_local_experts", None) or source.num_experts,
        top_k=source.num_experts_per_tok,
        intermediate_size=source.moe_intermediate_size,
        renormalize=source.norm_topk_prob,
        sparse=tuple(
            index not in dense and (index + 1) % step == 0 for index in range(source.num_hidden_layers)
        ),
    )
    return decoder_spec(
        path,
        source,
        sliding_windows=qwen_windows(path, source),
        qkv_bias=source.attention_bias,
        output_bias=source.attention_bias,
        qk_norm=True,
        mixture=checked(path, mixture),
    )


FAMILY = Family(
    name="qwen3_moe",
    architecture="Qwen3MoeForCausalLM",
    defaults=DEFAULTS
    | {
        "vocab_size": 151936,
        "hidden_size": 2048,
        "intermediate_size": 6144,
        "num_hidden_layers": 24,
        "max_position_embeddings": 32768,
        "num_key_value_heads": 4,
        "use_sliding_window": False,
        "sliding_window": 4096,
        "num_experts": 128,
        "num_experts_per_tok": 8,
        "moe_intermediate_size": 768,
        "norm_topk_prob": False,
        "decoder_sparse_step": 1,
    },
    spec=_spec,
)
