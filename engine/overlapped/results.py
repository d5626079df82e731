"""A step's tokens on their way to the host, while the device goes on with the next step.

The copy runs on a stream of its own, into pinned memory, and waits for its step alone. What it reads is kept
until it is through: the next step writes its tokens elsewhere.
"""

import time
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...kernels.sample import Sampled as SampledOnDevice
from ..request import LEAST_LOGPROB, TokenLogprobs
from ..sampling.sampler import Sampled


class Pending:
    """Results that are on their way.

    Attributes:
        waited_s: seconds that the host waited for them.
    """

    def __init__(
        self,
        sources: list[Tensor],
        copies: list[Tensor],
        wanted: NDArray[np.int32],
        event: torch.cuda.Event | None,
    ) -> None:
        self._sources, self._copies, self._wanted, self._event = sources, copies, wanted, event
        self.waited_s = 0.0

    def read(self) -> Sampled:
        """The results, once they are here; the step itself has ended then."""
        started = time.perf_counter()
        if self._event is not None:
            self._event.synchronize()
        self.waited_s = time.perf_counter() - started
        self._sources.clear()
        tokens, *logprobs = (copy.numpy() for copy in self._copies)
        count = len(self._wanted)
        entries = list(self._entries(tokens, *logprobs)) if logprobs else None
        return Sampled(tokens[:count].copy(), entries)

    def _entries(
        self,
        tokens: NDArray[np.int64],
        logprobs: NDArray[np.float32],
        top_ids: NDArray[np.int64],
        top_logprobs: NDArray[np.float32],
    ) -> Iterator[TokenLogprobs | None]:
        for place, count in enumerate(self._wanted.tolist()):
            if count < 0 or tokens[place] < 0:
                yield None
                continue
            ids = top_ids[place, :count].tolist()
            values = top_logprobs[place, :count].clip(min=LEAST_LOGPROB).tolist()
            own = max(float(logprobs[place]), LEAST_LOGPROB)
            yield TokenLogprobs(int(tokens[place]), own, list(zip(ids, values, strict=True)))


class Results:
    """Sends results to the host: two steps at a time at most."""

    def __init__(self, rows: int, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]
        pinned = self._stream is not None
        self._tokens = [torch.zeros(rows, dtype=torch.int64, pin_memory=pinned) for _ in range(2)]
        self._turn = 0

    def send(self, sampled: SampledOnDevice, wanted: NDArray[np.int32]) -> Pending:
        """Start the copy of what the step that was launched last will have sampled.

        Args:
            sampled: its samples; those past the length of `wanted` are padding.
            wanted: int32, most likely tokens that each sample asked for; -1 for no log-probabilities.
        """
        sources = [sampled.tokens.clone()]  # a graph's own are overwritten by its next run
        copies = [self._tokens[self._turn][: len(sampled.tokens)]]
        self._turn ^= 1
        for extra in (sampled.logprobs, sampled.top_ids, sampled.top_logprobs):
            if extra is not None:
                sources.append(extra)
                copies.append(torch.empty_like(extra, device="cpu", pin_memory=self._stream is not None))
        if self._stream is None:
            for copy, source in zip(copies, sources, strict=True):
                copy.copy_(source)
            return Pending(sources, copies, wanted, None)
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            for copy, source in zip(copies, sources, strict=True):
                copy.copy_(source, non_blocking=True)
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            event.record(self._stream)
        return Pending(sources, copies, wanted, event)
