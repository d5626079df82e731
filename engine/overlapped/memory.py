"""How much of a GPU's memory KV pages may take: what is free after loading, less what steps take.

The largest step is run before there are any pages: with the most tokens, all sequences sampled, and every
kind of sampling. Its peak is kept free for steps, and once more what the largest captured step takes, for the
graphs, which have their own memory. A reserve is left in addition, because drivers load code when it is first
needed, allocators leave gaps, and other programs may use the same GPU.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass

import torch

from ...kernels.sample import sample
from ...kernels.structs import SampleNeeds, SamplingTable
from ..config import EngineConfig
from ..errors import ModelError, is_out_of_memory
from ..models.cache import KVCache, kv_dtype
from ..models.decoder import Model
from ..parameters import COLUMNS
from ..step_input import StepInput
from .inputs import DTYPES, buffer_bytes
from .shapes import shapes_for

logger = logging.getLogger(__name__)

_MIB = 1 << 20
# Of the whole GPU, for what was not seen in the trial: 2.4 GB of 80.
_RESERVED_SHARE = 0.03
_LEAST_RESERVE_BYTES = 512 * _MIB
_GRAPH_BYTES = 4 * _MIB
"""The driver's memory for a captured graph, that is a few hundred kernels and their parameters."""


@dataclass(slots=True, frozen=True)
class Budget:
    """A GPU's memory in bytes.

    Attributes:
        free: once the weights are loaded.
        step: what the largest step takes.
        graphs: what captured graphs take.
        buffers: what steps keep: inputs, known tokens and logits.
        reserve: what is left free.
        adapters: what adapters may take.
    """

    free: int
    step: int
    graphs: int
    buffers: int
    reserve: int
    adapters: int = 0

    @property
    def kv(self) -> int:
        """What is left for KV pages."""
        return self.free - self.step - self.graphs - self.buffers - self.reserve - self.adapters

    def __str__(self) -> str:
        parts = f"steps {_mib(self.step)}, graphs {_mib(self.graphs)}, buffers {_mib(self.buffers)}"
        if self.adapters:
            parts += f", adapters {_mib(self.adapters)}"
        return f"of {_mib(self.free)} free after loading: {parts}, reserve {_mib(self.reserve)}"


def kv_memory(model: Model, config: EngineConfig, context_tokens: int, vocab: int) -> int:
    """The number of bytes for KV pages on the model's GPU.

    Raises:
        ModelError: nothing is left for them; the message says what takes how much and what to change.
    """
    device = model.embedding.device
    shapes, rows = shapes_for(config, context_tokens, graphs=config.cuda_graphs), config.max_batch_size
    captured = max((rows, *shapes.token_sizes))
    try:
        step = _peak(lambda: _run(model, config, config.step_tokens, context_tokens), device)
        graph = 0
        if config.cuda_graphs:
            graph = _peak(lambda: _run(model, config, captured, context_tokens), device)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise ModelError(
            f"a step of {config.step_tokens} tokens does not fit the GPU memory that the weights leave; "
            "lower max_step_tokens or max_batch_size, or use a larger GPU"
        ) from error
    free, total = torch.cuda.mem_get_info(device)
    reserve = config.gpu_reserve_bytes
    budget = Budget(
        free=free,
        step=step,
        graphs=graph + len(shapes) * _GRAPH_BYTES if config.cuda_graphs else 0,
        # 4 bytes each: `history` holds int32 tokens, the logits' buffer float32.
        buffers=buffer_bytes(shapes, config.step_tokens) + (rows + 1) * 4 * (context_tokens + 1 + vocab),
        reserve=max(_LEAST_RESERVE_BYTES, int(total * _RESERVED_SHARE)) if reserve is None else reserve,
        adapters=config.adapter_memory_bytes if config.max_adapters else 0,
    )
    if budget.kv <= 0:
        raise ModelError(
            f"no GPU memory is left for KV pages ({budget}); lower max_step_tokens "
            f"({config.step_tokens}), max_batch_size ({rows}), max_context_tokens ({context_tokens}) or "
            "gpu_reserve_bytes, or use a larger GPU"
        )
    logger.info("KV pages get %s (%s)", _mib(budget.kv), budget)
    return budget.kv


def _peak(run: Callable[[], None], device: torch.device) -> int:
    """The peak memory of `run`, which is run once before for what only a first run takes and keeps."""
    run()
    torch.cuda.synchronize(device)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    # Reserved, not allocated: what the allocator asks of the driver is what KV pages can't have.
    before = torch.cuda.memory_reserved(device)
    run()
    torch.cuda.synchronize(device)
    peak = torch.cuda.max_memory_reserved(device) - before
    torch.cuda.empty_cache()
    return peak


@torch.inference_mode()
def _run(model: Model, config: EngineConfig, tokens: int, context_tokens: int) -> None:
    """Run a step of `tokens` prompt tokens from as many sequences as there may be, all of them sampled."""
    device = model.embedding.device
    sequences = min(tokens, config.max_batch_size)
    counts = torch.full((sequences,), min(tokens // sequences, context_tokens), device=device)
    ends = counts.cumsum(0)
    total = int(ends[-1])
    pages = -(-context_tokens // config.page_size)
    dtype = kv_dtype(config.kv_dtype, model.embedding.dtype)
    # All write to the null page: there are no others yet, and what they hold does not matter.
    cache = KVCache.zeros(model.config, 1, config.page_size, dtype, device)
    step = StepInput(
        token_ids=torch.zeros(total, dtype=torch.int64, device=device),
        positions=torch.arange(total, device=device) % counts[0],
        slots=torch.zeros(total, dtype=torch.int64, device=device),
        query_starts=torch.nn.functional.pad(ends, (1, 0)).int(),
        context_lens=counts.int(),
        block_tables=torch.zeros(sequences, pages, dtype=torch.int32, device=device),
        sampled=ends - 1,
    )
    logits = model.forward(step, cache)
    number = torch.ones(sequences, dtype=torch.int64, device=device)
    table = SamplingTable(
        **{name: number.to(DTYPES[column.dtype]) for name, column in COLUMNS.items()},
        tokens=torch.zeros(sequences, context_tokens, dtype=torch.int32, device=device),
        lengths=number,
        prompt_lengths=number,
        bias_ids=torch.zeros(sequences, 1, dtype=torch.int32, device=device),
        bias_values=number[:, None].float(),
        bias_until=number[:, None],
    )
    sample(logits, torch.arange(sequences, device=device), table, SampleNeeds(logprobs=20))


def _mib(size: int) -> str:
    return f"{size // _MIB:,} MiB"
