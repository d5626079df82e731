"""Small random models of every family, and what transformers generates with them."""

import os
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch

from headrace.engine import Engine, EngineConfig, Request, SamplingParams

DENSE = ("llama", "mistral", "qwen2", "qwen3")
FAMILIES = (*DENSE, "mixtral", "qwen3_moe", "granite")
NEW_TOKENS = 20
PAGES = 1025
VOCAB = 300


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@cache
def _model(family: str):
    from transformers import (
        GraniteConfig,
        GraniteForCausalLM,
        LlamaConfig,
        LlamaForCausalLM,
        MistralConfig,
        MistralForCausalLM,
        MixtralConfig,
        MixtralForCausalLM,
        Qwen2Config,
        Qwen2ForCausalLM,
        Qwen3Config,
        Qwen3ForCausalLM,
        Qwen3MoeConfig,
        Qwen3MoeForCausalLM,
    )

    shape = {
        "hidden_size": 64,  # and the other widths: multiples of 32, which compiled decoders ask for
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": VOCAB,
        "max_position_embeddings": 2048,
        "initializer_range": 0.35,  # varied output: with small weights a model repeats one token
        "bos_token_id": 1,
        "eos_token_id": None,
        "pad_token_id": 0,
    }
    kinds = {
        "llama": lambda: LlamaForCausalLM(LlamaConfig(**shape)),
        "mistral": lambda: MistralForCausalLM(MistralConfig(**shape, sliding_window=40)),
        "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**shape, tie_word_embeddings=True)),
        "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**shape, head_dim=32)),
        "granite": lambda: GraniteForCausalLM(
            GraniteConfig(
                **shape,
                embedding_multiplier=3.0,
                attention_multiplier=0.15,
                residual_multiplier=0.6,
                logits_scaling=4.0,
            )
        ),
        "mixtral": lambda: MixtralForCausalLM(
            MixtralConfig(**shape, num_local_experts=4, num_experts_per_tok=2)
        ),
        "qwen3_moe": lambda: Qwen3MoeForCausalLM(
            Qwen3MoeConfig(
                **shape,
                head_dim=32,
                num_experts=6,
                num_experts_per_tok=3,
                moe_intermediate_size=32,
                mlp_only_layers=[1],
            )
        ),
    }
    torch.manual_seed(FAMILIES.index(family))
    model = kinds[family]().float().eval()
    if family == "qwen2":  # transformers initialises biases to zero, which would hide a wrong one
        for name, parameter in model.named_parameters():
            if name.endswith(".bias"):
                torch.nn.init.normal_(parameter, std=0.3)
    return model


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a family's model, saved once."""
    folders: dict[str, Path] = {}

    def saved(family: str) -> Path:
        if family not in folders:
            folders[family] = tmp_path_factory.mktemp(family)
            _model(family).save_pretrained(folders[family])
        return folders[family]

    return saved


@cache
def prompt(length: int, salt: int = 0) -> tuple[int, ...]:
    """A random prompt, the same each time."""
    generator = torch.Generator().manual_seed(1000 * salt + length)
    return tuple(torch.randint(3, VOCAB, (length,), generator=generator).tolist())


@cache
def expected(family: str, prompt_ids: tuple[int, ...], new_tokens: int = NEW_TOKENS) -> list[int]:
    """transformers' greedy continuation."""
    ids = torch.tensor([prompt_ids])
    with torch.inference_mode():
        out = _model(family).generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=new_tokens, do_sample=False
        )
    return out[0, len(prompt_ids) :].tolist()


def greedy(max_tokens: int = NEW_TOKENS) -> SamplingParams:
    return SamplingParams(max_tokens=max_tokens, temperature=0.0)


def run(engine: Engine, *requests: Request) -> dict[str, list[int]]:
    """Submit all, step to the end checking every invariant on the way; the new tokens of each."""
    outputs: dict[str, list[int]] = {request.id: [] for request in requests}
    for request in requests:
        engine.submit(request)
    while engine.has_work:
        for progress in engine.step():
            outputs[progress.id] += progress.token_ids
        engine.check()
    return outputs


@pytest.fixture(scope="session")
def make_engine(model_folder: Callable[[str], Path]) -> Callable[..., Engine]:
    """An engine for a family's model; with few pages, since `run` checks them all after every step."""

    def made(family: str = "llama", **options: object) -> Engine:
        if options.get("kv_memory_bytes") is None:
            options.setdefault("num_pages", PAGES)
        return Engine(EngineConfig(model=str(model_folder(family)), **options))

    return made


os.environ.setdefault("HF_HUB_OFFLINE", "1")
