"""A step's tokens on their way to the host, while the device continues with the next step.

The copy runs on its own stream, into pinned memory, and waits only for its step. What it reads is kept until
it is done: the next step writes its tokens elsewhere.
"""

import time
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...kernels.structs import SampledTensors
from ..sampling.sampled import Sampled, sampled
from ..sampling.scored import Scoring


@dataclass(slots=True)
class Asides:
    """What a step says of prompts, besides the tokens that it samples.

    Attributes:
        sums: float32 [chunks, hidden], the sums of its pooled chunks.
        scored: the log-probabilities of the tokens that `scoring` names.
    """

    sums: Tensor | None = None
    scored: SampledTensors | None = None
    scoring: Scoring | None = None


class Pending:
    """Results that are on their way.

    Attributes:
        waited_s: seconds that the host has waited for them.
    """

    def __init__(
        self,
        sources: list[Tensor],
        copies: list[Tensor],
        wanted: NDArray[np.int32],
        event: torch.cuda.Event | None,
        asides: Asides,
    ) -> None:
        self._sources, self._copies, self._wanted, self._event = sources, copies, wanted, event
        self._pooled, self._scoring = asides.sums is not None, asides.scoring
        self.waited_s = 0.0

    def read(self) -> Sampled:
        """Wait for the results; the step itself has then ended."""
        started = time.perf_counter()
        if self._event is not None:
            self._event.synchronize()
        self.waited_s = time.perf_counter() - started
        self._sources.clear()
        pooled = self._copies.pop().numpy() if self._pooled else None
        arrays = [copy.numpy() for copy in self._copies]
        own, scores = (arrays, []) if self._scoring is None else (arrays[:-3], arrays[-3:])
        made = sampled(self._wanted, *own)
        made.pooled = pooled
        if self._scoring is not None:
            made.scores = self._scoring.split(*scores)
        return made


class Results:
    """Sends results to the host, of at most two steps at a time."""

    def __init__(self, rows: int, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]
        pinned = self._stream is not None
        # Two, by turns: N is read while N + 1 is launched, and N + 2 is launched only after N was read.
        self._tokens = [torch.zeros(rows, dtype=torch.int64, pin_memory=pinned) for _ in range(2)]
        self._turn = 0

    def send(
        self,
        made: SampledTensors,
        wanted: NDArray[np.int32],
        asides: Asides | None = None,
    ) -> Pending:
        """Start copying what the step launched last will have sampled.

        Args:
            made: its samples; those beyond the length of `wanted` are padding.
            wanted: int32, the number of most likely tokens that each sample asked for; -1 for no
                log-probabilities.
            asides: what it says besides.
        """
        asides = asides or Asides()
        sources = [made.tokens.clone()]  # a graph's own are overwritten by its next run
        copies = [self._tokens[self._turn][: len(made.tokens)]]
        self._turn ^= 1
        extras = [made.logprobs, made.top_ids, made.top_logprobs]
        if (scored := asides.scored) is not None:
            extras += [scored.logprobs, scored.top_ids, scored.top_logprobs]
        for extra in (*extras, asides.sums):
            if extra is not None:
                sources.append(extra)
                copies.append(torch.empty_like(extra, device="cpu", pin_memory=self._stream is not None))
        if self._stream is None:
            for copy, source in zip(copies, sources, strict=True):
                copy.copy_(source)
            return Pending(sources, copies, wanted, None, asides)
        # It waits for what is launched so far, this step, and not for what comes after: the copy passes the
        # next step's kernels by.
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            for copy, source in zip(copies, sources, strict=True):
                copy.copy_(source, non_blocking=True)
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            event.record(self._stream)
        return Pending(sources, copies, wanted, event, asides)
