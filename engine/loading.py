"""Loading a model: from its name to its files, type, device and weights, and an executor that computes it."""

import json
import logging
import os
from pathlib import Path

import torch

from ..kernels import native
from .config import EngineConfig
from .errors import ModelError
from .executor import ModelExecutor
from .hub import model_folder
from .models import ModelConfig, load_config, load_decoder, read_configs
from .models.checkpoint import refuse_other_folders, stored_dtype
from .models.scorer import load_scorer
from .protocol import EngineModelInfo
from .request import PoolingType

logger = logging.getLogger(__name__)

_POOLING = "1_Pooling/config.json"
"""Says that a model is one of sentence-transformers's, and how it pools."""


def load_executor(config: EngineConfig) -> ModelExecutor:
    """Load the model that `config` names.

    Raises:
        ModelError: there is no such model, it can't be read, or it doesn't fit; the message says why.
    """
    if config.threads is not None:
        if config.threads > (cores := os.cpu_count() or 1):
            logger.warning(
                "threads is %d, but this machine has %d cores; fewer are faster", config.threads, cores
            )
        torch.set_num_threads(config.threads)
    device = _device(config.device)
    if device.type == "cpu":
        native.shared_library()  # built now if this is the machine's first run, and not during a step
    folder = model_folder(config.model)
    if not (folder / "config.json").exists():
        refuse_other_folders(folder)
    files = read_configs(folder, logger.warning)
    model = load_config(config.model, *files)
    dtype = dtype_of(config, model, folder)
    context = config.max_context_tokens or model.context_tokens
    if context > model.context_tokens:
        raise ModelError(
            f"max_context_tokens is {context}, but {config.model} takes at most {model.context_tokens} "
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
            deterministic=config.deterministic,
        )
    scorer = load_scorer(config.model, folder, model, files[0], config.classifier_token_ids)
    embeds = not model.has_head or (folder / _POOLING).is_file()
    info = EngineModelInfo(
        family=model.family,
        vocab_size=model.vocab_size,
        context_tokens=context,
        eos_token_ids=tuple(token_id for token_id in model.eos_token_ids if 0 <= token_id < model.vocab_size),
        num_parameters=model.num_parameters,
        dtype=str(dtype).removeprefix("torch."),
        hidden_size=model.hidden_size,
        pooling=_pooling(folder),
        generates=model.has_head,
        max_adapters=config.max_adapters,
        task="score" if scorer is not None else "embed" if embeds else "generate",
    )
    return ModelExecutor(decoder, config, info, device, scorer)


def _pooling(folder: Path) -> PoolingType:
    """How sentence-transformers pools this model; by the last token, if it isn't one of its models."""
    path = folder / _POOLING
    if not path.is_file():
        return "last"
    try:
        modes = json.loads(path.read_text())
        named = [mode for mode, asked in modes.items() if mode.startswith("pooling_mode_") and asked is True]
    except (AttributeError, ValueError) as error:
        raise ModelError(f"{path} can't be read: {error}") from None
    match named:
        case ["pooling_mode_lasttoken"]:
            return "last"
        case ["pooling_mode_mean_tokens"]:
            return "mean"
    raise ModelError(
        f"{path} asks for {' and '.join(named) or 'no pooling'}; supported are pooling_mode_lasttoken and "
        "pooling_mode_mean_tokens"
    )


def dtype_of(config: EngineConfig, model: ModelConfig, folder: Path) -> torch.dtype:
    """The type that a model is computed in: that of `config`, or else of config.json, or else of its tensors.

    Raises:
        ModelError: config.json names a type that torch doesn't know.
    """
    if config.dtype != "auto":
        dtype: torch.dtype = getattr(torch, config.dtype)
        return dtype
    if model.dtype is None:
        return stored_dtype(folder)
    known = getattr(torch, model.dtype.removeprefix("torch."), None)
    if not isinstance(known, torch.dtype) or not known.is_floating_point:
        raise ModelError(
            f"{config.model}: config.json has dtype={model.dtype!r}, which is not a floating-point type "
            "of torch"
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
