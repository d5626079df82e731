"""The shapes that decode steps are padded to, so that a graph captured once serves them all.

A graph has fixed sizes. The number of sequences is padded to the next of a few sizes, so close together that
padding is at most seven sequences, or an eighth of a larger batch. The width of the block tables is padded in
wide strides: columns that a sequence does not use cost no more than their copy, but a GPU divides a context
among programs by the longest it must expect, and a short context in many parts is slow.

Prompt chunks come in too many sizes to capture. Their steps run eagerly, in their own shape: they compute
long enough for the host to launch the next one meanwhile.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, product

_FIRST_CONTEXT_TOKENS = 2048
_CONTEXT_STRIDE = 4


@dataclass(slots=True, frozen=True)
class StepShape:
    """What sizes a step's arrays have.

    Attributes:
        tokens: query tokens.
        sequences: sequences that they belong to.
        samples: sequences that get a new token.
        pages: width of the block tables.
        decode: every sequence has one token and gets the next: what graphs are captured of.
    """

    tokens: int
    sequences: int
    samples: int
    pages: int
    decode: bool = False


class DecodeShapes:
    """The shapes for decodes of up to so many sequences and tokens a sequence.

    Attributes:
        sizes: numbers of sequences, ascending.
        widths: of block tables in pages, ascending.
    """

    def __init__(self, max_batch_size: int, capacity_tokens: int, page_size: int) -> None:
        steps = chain((1, 2, 4), range(8, 128, 8), range(128, 256, 16), range(256, max_batch_size, 32))
        self.sizes = (*(size for size in steps if size < max_batch_size), max_batch_size)
        widths, tokens = [], _FIRST_CONTEXT_TOKENS
        while tokens < capacity_tokens:
            widths.append(-(-tokens // page_size))
            tokens *= _CONTEXT_STRIDE
        self.widths = (*widths, -(-capacity_tokens // page_size))

    def fit(self, sequences: int, pages: int) -> StepShape:
        """The least shape for so many sequences, the longest of which has so many pages."""
        size = next(size for size in self.sizes if size >= sequences)
        return _decode(size, next(width for width in self.widths if width >= pages))

    def __iter__(self) -> Iterator[StepShape]:
        """All shapes, the largest first: graphs captured later find room in the memory of earlier ones."""
        for size, width in product(reversed(self.sizes), reversed(self.widths)):
            yield _decode(size, width)

    def __len__(self) -> int:
        return len(self.sizes) * len(self.widths)


def _decode(size: int, width: int) -> StepShape:
    return StepShape(size, size, size, width, decode=True)
