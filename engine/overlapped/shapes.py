"""The shapes that steps are padded to, so that a graph captured once serves many steps.

A graph has fixed sizes. The number of sequences is padded to the next of a few sizes, close enough together
that at most seven sequences, or an eighth of a larger batch, are padding. The width of the block tables is
padded in wide strides: unused columns cost no more than their copy, but a GPU divides a context among
programs by the longest one possible, and a short context in many parts is slow.

Steps with prompt chunks are padded in tokens, up to a size at which launching their kernels one by one takes
the host less time than computing them takes the device. Larger steps are launched like that, in their own
shape.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, product

from ..config import EngineConfig

_FIRST_CONTEXT_TOKENS = 2048
_CONTEXT_STRIDE = 4
"""Widths of block tables: for 2,048 tokens, then for 4 times as many as the one before. Each costs a graph
for every number of sequences, while a table for 8,192 tokens is 2 KiB, whose copy takes no noticeable
time."""
_CHUNK_TOKENS = 512
"""Number of tokens of the largest step with prompt chunks that is padded."""


@dataclass(slots=True, frozen=True)
class StepShape:
    """The sizes of a step's arrays.

    Attributes:
        tokens: number of query tokens.
        sequences: number of sequences that they belong to.
        samples: number of sequences that get a new token.
        pages: width of the block tables.
        decode: whether every sequence has one token and gets the next.
        padded: whether it is one of `PaddedShapes`, for which there may be a graph.
    """

    tokens: int
    sequences: int
    samples: int
    pages: int
    decode: bool = False
    padded: bool = False


class PaddedShapes:
    """The shapes for up to a number of sequences, and of tokens per sequence.

    Attributes:
        sizes: numbers of decoding sequences, ascending.
        widths: of block tables in pages, ascending.
        token_sizes: numbers of tokens in steps with prompt chunks, ascending.
    """

    def __init__(
        self, max_batch_size: int, capacity_tokens: int, page_size: int, most_chunk_tokens: int = 0
    ) -> None:
        """Make the shapes; steps with up to `most_chunk_tokens` tokens and prompt chunks are padded."""
        self._capacity_tokens = capacity_tokens
        most = min(most_chunk_tokens, max_batch_size * capacity_tokens)
        sizes = {32, *range(64, most, 64), most}
        self.token_sizes = tuple(size for size in sorted(sizes) if 0 < size <= most)
        # 1, 2, 4, 8, 16 … 120, 128, 144 … 240, 256: 27 sizes for a batch of 256, each of which is captured
        # once for every width.
        steps = chain((1, 2, 4), range(8, 128, 8), range(128, 256, 16), range(256, max_batch_size, 32))
        self.sizes = (*(size for size in steps if size < max_batch_size), max_batch_size)
        widths, tokens = [], _FIRST_CONTEXT_TOKENS
        while tokens < capacity_tokens:
            widths.append(-(-tokens // page_size))
            tokens *= _CONTEXT_STRIDE
        self.widths = (*widths, -(-capacity_tokens // page_size))

    def decodes(self, sequences: int, pages: int) -> StepShape:
        """The smallest shape for this many decodes, the longest of which has this many pages."""
        size = next(size for size in self.sizes if size >= sequences)
        return _decode(size, next(width for width in self.widths if width >= pages))

    def chunks(self, tokens: int, pages: int) -> StepShape | None:
        """The smallest shape for this many tokens of any sequences; None for a step that is not padded.

        It has one more sequence than there can be, which consists of the padding's tokens.
        """
        size = next((size for size in self.token_sizes if size >= tokens), None)
        # Padding is one sequence, and no sequence is longer than that.
        if size is None or size - tokens > self._capacity_tokens:
            return None
        return self._chunks(size, next(width for width in self.widths if width >= pages))

    def _chunks(self, size: int, width: int) -> StepShape:
        rows = self.sizes[-1]
        return StepShape(size, rows + 1, rows, width, padded=True)

    def __iter__(self) -> Iterator[StepShape]:
        """All shapes, the largest first, so that later graphs find room in the memory of earlier ones."""
        for size, width in product(reversed(self.token_sizes), reversed(self.widths)):
            yield self._chunks(size, width)
        for size, width in product(reversed(self.sizes), reversed(self.widths)):
            yield _decode(size, width)

    def __len__(self) -> int:
        return (len(self.sizes) + len(self.token_sizes)) * len(self.widths)


def shapes_for(config: EngineConfig, capacity_tokens: int, *, graphs: bool) -> PaddedShapes:
    """The shapes that an engine of this config pads its steps to; prompt chunks only for graphs."""
    most = min(_CHUNK_TOKENS, config.step_tokens) if graphs else 0
    return PaddedShapes(config.max_batch_size, capacity_tokens, config.page_size, most)


def _decode(size: int, width: int) -> StepShape:
    return StepShape(size, size, size, width, decode=True, padded=True)
