"""The fingerprint of everything that decides an engine's tokens, equal for equal checkpoints anywhere.

Weights are hashed tensor by tensor, so neither shards nor their order matter. The device, the page size and
everything else that doesn't change the distribution of tokens are left out.
"""

import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from hashlib import blake2b
from math import prod
from pathlib import Path
from typing import Any

from .config import EngineConfig
from .errors import ModelError
from .hub import model_folder
from .loading import dtype_of
from .models import load_config, read_configs
from .models.checkpoint import shards

GENERATION = 1
"""To be raised when the engine itself starts to choose other tokens, by its numerics or its sampling."""

PIECE_BYTES = 1 << 26
"""Tensors are hashed in pieces of this size, so that a large one keeps several threads busy."""

_READ_BYTES = 1 << 22
_UNINFORMATIVE = {"_name_or_path", "transformers_version"}


def model_fingerprint(config: EngineConfig) -> str:
    """Return 16 hexadecimal digits for the model that `config` names, as this engine computes it.

    This reads the whole checkpoint, in as many threads as the engine has.

    Raises:
        ModelError: there is no such model, or it can't be read.
    """
    folder = model_folder(config.model)
    files = read_configs(folder)
    dtype = dtype_of(config, load_config(config.model, *files), folder)
    identity = {
        "generation": GENERATION,
        "config": [{k: v for k, v in file.items() if k not in _UNINFORMATIVE} for file in files],
        "dtype": str(dtype),
        "quantization": config.quantization,
        "kv_dtype": config.kv_dtype,
        "weights": weights_of(folder, config.threads or os.cpu_count() or 1),
        # Only if it is on, so that all others keep the fingerprint that their jobs in the queue have.
        **({"deterministic": True} if config.deterministic else {}),
    }
    return blake2b(json.dumps(identity, sort_keys=True).encode(), digest_size=8).hexdigest()


def weights_of(folder: Path, threads: int) -> list[list[Any]]:
    """Each tensor's name, type, shape and digests, by name."""
    with ExitStack() as stack, ThreadPoolExecutor(threads, "headrace-fingerprint") as pool:
        found = []
        for path in shards(folder):
            file = stack.enter_context(path.open("rb")).fileno()
            for name, tensor, places in _tensors(file):
                digests = [pool.submit(_digest, file, start, end) for start, end in places]
                found.append((name, tensor["dtype"], tensor["shape"], digests))
        return [
            [name, dtype, shape, [digest.result() for digest in digests]]
            # By name: which shard held a tensor is how the checkpoint was saved, not what it says.
            for name, dtype, shape, digests in sorted(found, key=lambda tensor: tensor[0])
        ]


def count_numbers(path: Path) -> int:
    """How many numbers a safetensors file holds."""
    with path.open("rb") as file:
        return sum(prod(tensor["shape"]) for _, tensor, _ in _tensors(file.fileno()))


def _tensors(file: int) -> Iterator[tuple[str, dict[str, Any], list[tuple[int, int]]]]:
    """The tensors that a safetensors file's header names, and where the pieces of each are."""
    # The format: 8 bytes that say how long the header is, the header as JSON, then all tensors' bytes, which
    # its offsets count from.
    length = int.from_bytes(os.pread(file, 8, 0), "little")
    header: dict[str, Any] = json.loads(os.pread(file, length, 8))
    for name, tensor in header.items():
        if name != "__metadata__":
            first, last = (8 + length + offset for offset in tensor["data_offsets"])
            yield (
                name,
                tensor,
                [(at, min(at + PIECE_BYTES, last)) for at in range(first, last, PIECE_BYTES)],
            )


def _digest(file: int, start: int, end: int) -> str:
    """The digest of the bytes from `start` to `end`; neither reading nor hashing holds the GIL."""
    digest = blake2b(digest_size=16)
    while start < end:
        block = os.pread(file, min(_READ_BYTES, end - start), start)
        if not block:
            raise ModelError("a file of the checkpoint is shorter than its header says; download it again")
        digest.update(block)
        start += len(block)
    return digest.hexdigest()
