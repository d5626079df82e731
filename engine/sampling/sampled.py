"""What a step has sampled, on the host."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ..request import LEAST_LOGPROB, TokenLogprobs
from ..sequence import Sequence


@dataclass(slots=True)
class Sampled:
    """New tokens, int64 [S], and the log-probabilities of the rows that asked for them (otherwise None), in
    order.

    A token of -1 means that there was nothing to choose from. `pooled` has the sums of the step's pooled
    chunks, float32 [chunks, hidden], in order; `scores` are the log-probabilities of the prompts' next
    tokens.
    """

    token_ids: NDArray[np.int64]
    logprobs: list[TokenLogprobs | None] | None
    pooled: NDArray[np.float32] | None = None
    scores: list[tuple[Sequence, list[TokenLogprobs]]] = field(default_factory=list)


def sampled(wanted: NDArray[np.int32], tokens: NDArray[np.int64], *logprobs: NDArray[np.generic]) -> Sampled:
    """What the kernel's `SampledTensors` holds, in the host's memory.

    Args:
        wanted: how many of the most likely tokens each row asked for; -1 for no log-probabilities.
        tokens: those of these rows, then of padding.
        logprobs: the other three arrays, or none of them.
    """
    own = list(entries(wanted, tokens, *logprobs)) if logprobs else None
    return Sampled(tokens[: len(wanted)].copy(), own)


def entries(
    wanted: NDArray[np.int32],
    tokens: NDArray[np.int64],
    logprobs: NDArray[np.generic],
    top_ids: NDArray[np.generic],
    top_logprobs: NDArray[np.generic],
) -> Iterator[TokenLogprobs | None]:
    """What arrays say of tokens, row by row; None for a row that didn't ask or has no token."""
    for place, count in enumerate(wanted.tolist()):
        if count < 0 or tokens[place] < 0:
            yield None
            continue
        ids = top_ids[place, :count].tolist()
        values = top_logprobs[place, :count].astype(float).clip(min=LEAST_LOGPROB).tolist()
        own = max(float(logprobs[place]), LEAST_LOGPROB)
        yield TokenLogprobs(int(tokens[place]), own, list(zip(ids, values, strict=True)))
