"""The device's side of a step: weights, KV cache memory, one forward pass."""

import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from ..kernels import native
from .batch import StepInput
from .config import EngineConfig
from .errors import ModelError
from .models import ModelConfig, load_config, load_decoder, read_configs
from .models.cache import KVCache, kv_dtype, page_bytes
from .models.checkpoint import refuse_other_folders, stored_dtype
from .models.decoder import Model

_CPU_KV_SHARE = 0.25
"""Of the machine's memory that is free: the rest is left to the other processes on it."""


logger = logging.getLogger(__name__)


@dataclass(slots=True, frozen=True)
class ModelInfo:
    """What a loaded model is and takes.

    Attributes:
        vocab_size: tokens that it knows; its tokenizer may name more.
        context_tokens: longest prompt + output.
        eos_token_ids: tokens that end a sequence by themselves.
    """

    family: str
    vocab_size: int
    context_tokens: int
    eos_token_ids: tuple[int, ...]
    num_parameters: int
    dtype: str


class Executor(Protocol):
    """Computes steps."""

    model_info: ModelInfo
    num_pages: int
    """Pages of the KV cache, the null page included."""
    device: torch.device

    def execute(self, step: StepInput) -> Tensor:
        """Compute the step; float32 logits [S, vocab] of its sampled rows."""


class ModelExecutor:
    """Runs a decoder over its KV cache."""

    def __init__(self, decoder: Model, config: EngineConfig, info: ModelInfo, device: torch.device) -> None:
        self.model_info, self.device = info, device
        self._decoder = decoder
        self.num_pages = _num_pages(decoder, config, info)
        dtype = kv_dtype(config.kv_dtype, decoder.embedding.dtype)
        self._cache = KVCache.zeros(decoder.config, self.num_pages, config.page_size, dtype, device)

    @torch.inference_mode()
    def execute(self, step: StepInput) -> Tensor:
        """Compute the step; float32 logits [S, vocab] of its sampled rows."""
        return self._decoder.forward(step, self._cache)


def load_executor(config: EngineConfig) -> ModelExecutor:
    """Load the model that `config` names.

    Raises:
        ModelError: there is no such model, it can't be read, or it does not fit; the message says why.
    """
    if config.threads is not None:
        if config.threads > (cores := os.cpu_count() or 1):
            logger.warning(
                "threads is %d, this machine has %d cores: fewer are faster", config.threads, cores
            )
        torch.set_num_threads(config.threads)
    device = _device(config.device)
    if device.type == "cpu":
        native.shared_library()  # built here on a machine's first run, not in the middle of a step
    folder = model_folder(config.model)
    if not (folder / "config.json").exists():
        refuse_other_folders(folder)
    model = load_config(config.model, *read_configs(folder, logger.warning))
    dtype = dtype_of(config, model, folder)
    context = config.max_context_tokens or model.context_tokens
    if context > model.context_tokens:
        raise ModelError(
            f"max_context_tokens is {context}, but {config.model} takes {model.context_tokens} "
            "(max_position_embeddings in its config.json); lower it or leave it unset"
        )
    with torch.inference_mode():
        decoder = load_decoder(
            folder,
            model,
            dtype,
            device,
            positions=context,
            rows_hint=config.max_batch_size,
            int8=config.quantization == "int8",
            fp8_cache=config.kv_dtype == "fp8",
        )
    info = ModelInfo(
        family=model.family,
        vocab_size=model.vocab_size,
        context_tokens=context,
        eos_token_ids=tuple(token_id for token_id in model.eos_token_ids if 0 <= token_id < model.vocab_size),
        num_parameters=_count(model),
        dtype=str(dtype).removeprefix("torch."),
    )
    return ModelExecutor(decoder, config, info, device)


def dtype_of(config: EngineConfig, model: ModelConfig, folder: Path) -> torch.dtype:
    """What a model is computed in: what `config` says, else its config.json, else the type of its tensors.

    Raises:
        ModelError: config.json names a type that torch does not know.
    """
    if config.dtype != "auto":
        dtype: torch.dtype = getattr(torch, config.dtype)
        return dtype
    if model.dtype is None:
        return stored_dtype(folder)
    known = getattr(torch, model.dtype.removeprefix("torch."), None)
    if not isinstance(known, torch.dtype) or not known.is_floating_point:
        raise ModelError(
            f"{config.model}: config.json has dtype={model.dtype!r}, which torch does not know as a float"
        )
    return known


def _device(name: str) -> torch.device:
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ModelError(
            f"device {name!r}: there is no CUDA GPU here (or torch was built without CUDA); use cpu"
        )
    if device.type == "cuda":
        # An engine process has one GPU: kernels are launched on the current one.
        device = torch.device("cuda", torch.cuda.current_device() if device.index is None else device.index)
        torch.cuda.set_device(device)
    return device


def model_folder(model: str) -> Path:
    """Where a model's files lie; downloads a Hub name.

    Raises:
        ModelError: there is no such model.
    """
    path = Path(model)
    if path.is_dir():
        return path
    if model.endswith(".gguf"):
        raise ModelError(f"{model!r} is a GGUF file; only safetensors are supported: take that checkpoint")
    if path.exists():
        raise ModelError(f"{model!r} is a file; give the folder that holds config.json and the weights")
    if model.startswith(("/", "./", "../", "~")) or model.count("/") > 1:
        raise ModelError(f"{model!r}: there is no such folder here")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        return Path(snapshot_download(model, allow_patterns=["*.safetensors", "*.json", "tokenizer*"]))
    except (OSError, ValueError, HfHubHTTPError, HFValidationError) as error:
        raise ModelError(
            f"{model!r} is neither a folder here nor a Hub model that can be read: {error}"
        ) from error


def _count(model: ModelConfig) -> int:
    attention = (2 * model.num_heads + 2 * model.num_kv_heads) * model.head_dim * model.hidden_size
    embeddings = (1 if model.tie_embeddings else 2) * model.vocab_size * model.hidden_size
    return model.num_layers * attention + sum(_mlps(model)) * model.hidden_size + embeddings


def _mlps(model: ModelConfig) -> Iterator[int]:
    """The parameters of each layer's MLPs, by input."""
    for index in range(model.num_layers):
        if model.mixture is not None and model.mixture.sparse[index]:
            yield model.mixture.experts * (3 * model.mixture.intermediate_size + 1)
        else:
            yield 3 * model.intermediate_size


def _num_pages(decoder: Model, config: EngineConfig, info: ModelInfo) -> int:
    dtype = kv_dtype(config.kv_dtype, decoder.embedding.dtype)
    size = page_bytes(decoder.config, config.page_size, dtype)
    _refuse_more_than_there_is(decoder.embedding.device, config, size)
    if config.num_pages is not None:
        return config.num_pages
    useful = config.max_batch_size * -(-info.context_tokens // config.page_size) + 1
    memory = config.kv_memory_bytes or _spare_memory(decoder, config, info)
    pages = min(memory // size, useful)
    if pages < 2:
        raise ModelError(f"{memory} bytes hold no KV page of {size} bytes; free memory or lower page_size")
    return int(pages)


def _refuse_more_than_there_is(device: torch.device, config: EngineConfig, page_size_bytes: int) -> None:
    total = (
        torch.cuda.get_device_properties(device).total_memory
        if device.type == "cuda"
        else _meminfo_bytes("MemTotal") or inf
    )
    for name, value, wanted in (
        ("kv_memory_bytes", config.kv_memory_bytes, config.kv_memory_bytes or 0),
        ("num_pages", config.num_pages, (config.num_pages or 0) * page_size_bytes),
    ):
        if wanted > total:
            raise ModelError(
                f"{name} is {value}, which takes {wanted} bytes, and there are {total} bytes of memory here; "
                "lower it or leave it unset"
            )


def _spare_memory(decoder: Model, config: EngineConfig, info: ModelInfo) -> int:
    if decoder.embedding.is_cuda:
        from .overlapped.memory import kv_memory

        return kv_memory(decoder, config, info.context_tokens, info.vocab_size)
    if free := _meminfo_bytes("MemAvailable"):
        return int(free * _CPU_KV_SHARE)
    raise ModelError("/proc/meminfo does not say how much memory is free; set kv_memory_bytes or num_pages")


def _meminfo_bytes(name: str) -> int | None:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    return None
