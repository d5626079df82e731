"""Compiles every kernel and captures every graph before the first request.

A kernel is compiled for each of its variants, not for each size. So a few steps of nothing but padding run
all of them: with few and many tokens, short and long contexts, decodes and chunks, and each kind of sampling.
"""

import gc
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

from ...kernels.structs import SampleNeeds
from ..errors import ModelError, is_out_of_memory
from .shapes import StepShape
from .step import OverlappedLauncher

logger = logging.getLogger(__name__)

_NEEDS = (
    SampleNeeds(False, False, False),
    SampleNeeds(False, False, True),
    SampleNeeds(True, True, False, logprobs=0),
    SampleNeeds(True, True, True, logprobs=20, mask=True),
)
_TOKENS = tuple(1 << n for n in range(1, 20))
"""Of prompt chunks: more and more of the device's programs, fewer and fewer parts of a context each; and all
sizes of tiles that products by four-bit weights and experts have."""


def warm_up(launcher: OverlappedLauncher, max_step_tokens: int) -> None:
    """Compile and capture what steps of up to this many tokens need; return when the device is idle.

    Raises:
        ModelError: KV pages leave too little memory for it.
    """
    started = time.perf_counter()
    try:
        _compile(launcher, max_step_tokens)
        with _quick_collections():
            for shape in launcher.shapes:
                launcher.record(shape)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise ModelError(
            f"KV pages leave no room for a step of {max_step_tokens} tokens and its graphs: raise "
            "gpu_reserve_bytes, or lower num_pages or kv_memory_bytes where they are set, or max_step_tokens"
        ) from error
    logger.info("ready for %d shapes after %.1f s", len(launcher.shapes), time.perf_counter() - started)


@contextmanager
def _quick_collections() -> Iterator[None]:
    """Speed up the garbage collection, otherwise 0.1 s, that older torch runs before each capture."""
    frozen = gc.get_freeze_count()
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        if not frozen:
            gc.unfreeze()


def _compile(launcher: OverlappedLauncher, max_step_tokens: int) -> None:
    rows, pages, capacity = launcher.shapes.sizes[-1], launcher.shapes.widths[-1], launcher.capacity_tokens
    for needs in _NEEDS:
        launcher.rehearse(StepShape(1, 1, 1, pages, decode=True), needs)
    most = min(max_step_tokens, rows * capacity)
    # As few sequences as can hold the tokens and as many as fit, at the start of their context and at its
    # end: the corners of what a step can be.
    for tokens in (*(size for size in _TOKENS if size < most), most):
        for count in {-(-tokens // capacity), min(tokens, rows)}:
            for start in {0, capacity - -(-tokens // count)}:
                launcher.rehearse(StepShape(tokens, count, count, pages), _NEEDS[0], start)
