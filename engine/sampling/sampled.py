"""What a step has sampled, on the host."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..request import LEAST_LOGPROB, TokenLogprobs


@dataclass(slots=True)
class Sampled:
    """New tokens, int64 [S], and the log-probabilities of the rows that asked for them (otherwise None), in
    order.

    A token of -1 means that there was nothing to choose from. `pooled` has the sums of the step's pooled
    chunks, float32 [chunks, hidden], in order.
    """

    token_ids: NDArray[np.int64]
    logprobs: list[TokenLogprobs | None] | None
    pooled: NDArray[np.float32] | None = None


def sampled(wanted: NDArray[np.int32], tokens: NDArray[np.int64], *logprobs: NDArray[np.generic]) -> Sampled:
    """What the kernel's `SampledTensors` holds, in the host's memory.

    Args:
        wanted: how many of the most likely tokens each row asked for; -1 for no log-probabilities.
        tokens: those of these rows, then of padding.
        logprobs: the other three arrays, or none of them.
    """
    entries = list(_entries(wanted, tokens, *logprobs)) if logprobs else None
    return Sampled(tokens[: len(wanted)].copy(), entries)


def _entries(
    wanted: NDArray[np.int32],
    tokens: NDArray[np.int64],
    logprobs: NDArray[np.generic],
    top_ids: NDArray[np.generic],
    top_logprobs: NDArray[np.generic],
) -> Iterator[TokenLogprobs | None]:
    for place, count in enumerate(wanted.tolist()):
        if count < 0 or tokens[place] < 0:
            yield None
            continue
        ids = top_ids[place, :count].tolist()
        values = top_logprobs[place, :count].astype(float).clip(min=LEAST_LOGPROB).tolist()
        own = max(float(logprobs[place]), LEAST_LOGPROB)
        yield TokenLogprobs(int(tokens[place]), own, list(zip(ids, values, strict=True)))
