"""The adapters in memory: bounded in number and bytes, the longest unused one leaving first.

Invariants:
- One that a running sequence computes with (`holders` > 0) never leaves.
- What is here, held or not, is at most `most` adapters and `most_bytes` bytes.

Threads: intake loads ahead of time (`load`) beside the thread that steps, which acquires and releases. A lock
guards the table; files are read outside of it.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..errors import ModelError
from ..hub import model_folder
from ..request import Adapter
from .folder import AdapterWeights

_MOST_SIZES = 4096
_LONGEST = 1000


@dataclass(slots=True)
class _Kept:
    weights: AdapterWeights
    holders: int = 0


class AdapterStore:
    """Adapters by their content."""

    def __init__(self, read: Callable[[Path, str], AdapterWeights], most: int, most_bytes: int) -> None:
        """Make an empty store.

        Args:
            read: reads a folder's adapter, whose content has this fingerprint.
            most: maximum number of adapters.
            most_bytes: maximum size of all of them.
        """
        self._read, self._most, self._most_bytes = read, most, most_bytes
        self._kept: OrderedDict[str, _Kept] = OrderedDict()  # the longest unused first
        self._sizes: OrderedDict[str, int] = OrderedDict()
        self._lock = threading.Lock()

    def load(self, adapter: Adapter) -> None:
        """Check that an adapter can be computed with, and keep it if there is room; in any thread.

        Raises:
            ModelError: it can't be; the message names it, its folder and the way out.
        """
        with self._lock:
            if adapter.fingerprint in self._kept:
                self._kept.move_to_end(adapter.fingerprint)
                return
            size = self._sizes.get(adapter.fingerprint)
            if size is not None and not self._has_room(size):  # it was read before: nothing to gain
                return
        weights = self._fetch(adapter)
        with self._lock:
            self._keep(weights)

    def acquire(self, adapter: Adapter) -> AdapterWeights | None:
        """Hold an adapter for one sequence; None while all others are in use and there is no room.

        Raises:
            ModelError: it was dropped since it was loaded, and can't be read again.
        """
        with self._lock:
            if kept := self._kept.get(adapter.fingerprint):
                return self._hold(kept)
            if not self._has_room(self._sizes.get(adapter.fingerprint, 0)):
                return None
        weights = self._fetch(adapter)
        with self._lock:
            # The other thread may have kept it, or taken the room, in between.
            kept = self._keep(weights)
            return None if kept is None else self._hold(kept)

    def _hold(self, kept: _Kept) -> AdapterWeights:
        kept.holders += 1
        self._kept.move_to_end(kept.weights.fingerprint)
        return kept.weights

    def release(self, weights: AdapterWeights) -> None:
        """Let go of an adapter for one sequence."""
        with self._lock:
            kept = self._kept[weights.fingerprint]
            kept.holders -= 1
            assert kept.holders >= 0, f"adapter {weights.fingerprint} was released twice"

    @property
    def fingerprints(self) -> list[str]:
        """Those that are in memory, the longest unused first."""
        with self._lock:
            return list(self._kept)

    @property
    def bytes(self) -> int:
        """The memory that they take."""
        with self._lock:
            return self._bytes

    def check(self, holders: int) -> None:
        """Assert that as many sequences hold adapters as say so, and that the bounds are kept."""
        with self._lock:
            assert sum(kept.holders for kept in self._kept.values()) == holders
            assert len(self._kept) <= self._most
            assert self._bytes <= self._most_bytes

    @property
    def _bytes(self) -> int:
        return sum(kept.weights.bytes for kept in self._kept.values())

    def _fetch(self, adapter: Adapter) -> AdapterWeights:
        try:
            weights = self._read(model_folder(adapter.source), adapter.fingerprint)
            self._refuse_too_large(weights.bytes)
        except Exception as error:  # from the files, the device or a library: no step may fail by it
            kind = "" if isinstance(error, ModelError) else f"{type(error).__name__}: "
            reason = " ".join(f"{kind}{error}".split())[:_LONGEST]
            raise ModelError(f"adapter {adapter.name!r} can't be loaded: {reason}") from error
        with self._lock:
            self._sizes[adapter.fingerprint] = weights.bytes
            if len(self._sizes) > _MOST_SIZES:
                self._sizes.popitem(last=False)
        return weights

    def _refuse_too_large(self, size: int) -> None:
        if size > self._most_bytes:
            raise ModelError(
                f"it takes {size} bytes, more than adapter_memory_bytes={self._most_bytes}; raise that"
            )

    def _has_room(self, size: int) -> bool:
        """Whether an adapter of this size would fit once all unused ones had left."""
        held = [kept.weights.bytes for kept in self._kept.values() if kept.holders]
        return len(held) < self._most and sum(held) + size <= self._most_bytes

    def _keep(self, weights: AdapterWeights) -> _Kept | None:
        if weights.fingerprint in self._kept:
            return self._kept[weights.fingerprint]
        if not self._has_room(weights.bytes):
            return None
        unused = [name for name, kept in self._kept.items() if not kept.holders]
        while len(self._kept) >= self._most or self._bytes + weights.bytes > self._most_bytes:
            del self._kept[unused.pop(0)]
        kept = self._kept[weights.fingerprint] = _Kept(weights)
        return kept
