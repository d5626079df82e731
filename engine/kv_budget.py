"""How many KV pages there are: as many as were asked for, or as free memory can hold."""

from math import inf
from pathlib import Path

import torch

from .config import EngineConfig
from .errors import ModelError
from .models.cache import kv_dtype, page_bytes
from .models.decoder import Model
from .protocol import EngineModelInfo

_CPU_SHARE = 0.25
"""Share of the machine's free memory; the rest is left to its other processes."""


def num_pages(decoder: Model, config: EngineConfig, info: EngineModelInfo) -> int:
    """The number of pages in the KV cache, including the null page.

    Raises:
        ModelError: more memory is asked for than there is, or there isn't enough for a single page.
    """
    dtype = kv_dtype(config.kv_dtype, decoder.embedding.dtype)
    size = page_bytes(decoder.config, config.page_size, dtype)
    _refuse_more_than_there_is(decoder.embedding.device, config, size)
    if config.num_pages is not None:
        return config.num_pages
    # Every sequence of a full batch at its longest, and the null page: more could never be held.
    useful = config.max_batch_size * -(-info.context_tokens // config.page_size) + 1
    memory = config.kv_memory_bytes or _spare_memory(decoder, config, info)
    pages = min(memory // size, useful)
    if pages < 2:
        raise ModelError(
            f"no KV page of {size} bytes fits the {memory} bytes available; free memory or lower page_size"
        )
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
                f"{name} is {value}, which takes {wanted} bytes, but there are only {total} bytes of memory "
                "here; lower it or leave it unset"
            )


def _spare_memory(decoder: Model, config: EngineConfig, info: EngineModelInfo) -> int:
    if decoder.embedding.is_cuda:
        from .overlapped.memory import kv_memory

        return kv_memory(decoder, config, info.context_tokens, info.vocab_size)
    if free := _meminfo_bytes("MemAvailable"):
        return int(free * _CPU_SHARE)
    raise ModelError("/proc/meminfo doesn't say how much memory is free; set kv_memory_bytes or num_pages")


def _meminfo_bytes(name: str) -> int | None:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    return None
