"""Captured graphs: a step's hundreds of kernels launched by one call.

A graph runs on the addresses that it was captured with. So what goes in and what comes out lies in buffers
made before, and nothing of a graph's own memory is looked at afterwards: all graphs share one pool of it.
"""

from collections.abc import Callable, Hashable
from typing import Protocol

import torch


class Graphs(Protocol):
    """Work recorded once and run again by its key."""

    def capture(self, key: Hashable, work: Callable[[], object]) -> None:
        """Record `work`, which is run at least once before, unless there is something by this key."""

    def replay(self, key: Hashable) -> bool:
        """Run what was recorded; False when there is nothing."""


class NoGraphs:
    """Nothing is recorded: every step is launched kernel by kernel."""

    def capture(self, key: Hashable, work: Callable[[], object]) -> None:
        """Run `work`, so that whatever it compiles is compiled."""
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
        """Record `work`; it is run once before, for what only a first run does (compiling, handles)."""
        if key in self._graphs:
            return
        work()
        torch.cuda.synchronize(self._device)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            work()
        self._graphs[key] = graph

    def replay(self, key: Hashable) -> bool:
        """Launch what was recorded on the current stream; False when there is nothing."""
        graph = self._graphs.get(key)
        if graph is None:
            return False
        graph.replay()
        return True
