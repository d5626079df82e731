"""Captured graphs: a step's hundreds of kernels are launched by one call.

A graph runs on the addresses that it was captured with. So its inputs and outputs are in buffers made
beforehand, and a graph's own memory is never read afterwards: all graphs share one pool.
"""

from collections.abc import Callable, Hashable
from typing import Protocol

import torch


class Graphs(Protocol):
    """Work that is recorded once and run again by its key."""

    def capture(self, key: Hashable, work: Callable[[], object]) -> None:
        """Record `work`, which is run at least once before, unless there is a recording with this key."""

    def replay(self, key: Hashable) -> bool:
        """Run what was recorded; False if nothing was."""


class NoGraphs:
    """Records nothing: every step is launched kernel by kernel."""

    def capture(self, key: Hashable, work: Callable[[], object]) -> None:
        """Run `work`, so that what it needs is compiled."""
        work()

    def replay(self, key: Hashable) -> bool:
        """False."""
        return False


class CudaGraphs:
    """CUDA graphs with a common pool of memory."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._graphs: dict[Hashable, torch.cuda.CUDAGraph] = {}
        self._pool = torch.cuda.graph_pool_handle()

    def capture(self, key: Hashable, work: Callable[[], object]) -> None:
        """Record `work`, which is run once before for what only a first run does (compiling, handles)."""
        if key in self._graphs:
            return
        work()
        torch.cuda.synchronize(self._device)
        graph = torch.cuda.CUDAGraph()
        # Graphs run one after the other on one stream, so the pool needs room for the largest, not for all.
        with torch.cuda.graph(graph, pool=self._pool):
            work()
        self._graphs[key] = graph

    def replay(self, key: Hashable) -> bool:
        """Launch what was recorded on the current stream; False if nothing was."""
        graph = self._graphs.get(key)
        if graph is None:
            return False
        graph.replay()
        return True
