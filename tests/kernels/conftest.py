import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

if not torch.cuda.is_available():  # read when triton is imported, which no test does before this
    os.environ.setdefault("TRITON_INTERPRET", "1")
os.environ.setdefault(
    "CUBLAS_WORKSPACE_CONFIG", ":4096:8"
)  # else deterministic torch refuses products on GPUs

TOLERANCE = {torch.float32: 5e-6, torch.bfloat16: 1.2e-2, torch.float16: 1.5e-3, torch.float64: 1e-12}


@pytest.fixture(autouse=True)
def poisoned_memory() -> Iterator[None]:
    """Every torch.empty is filled with NaN, so that an element a kernel forgets is seen. One thread."""
    torch.use_deterministic_algorithms(True)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    assert torch.empty(3).isnan().all()
    assert torch.empty(3).new_empty(2, 2).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)
    torch.set_num_threads(threads)


@pytest.fixture
def device() -> Iterator[torch.device]:
    """Where Triton kernels run: a GPU, or the CPU by interpretation, in numpy, which warns of infinities."""
    with np.errstate(all="ignore"):
        yield torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture
def rows_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Interpreted products sum each row alike wherever in its tile it is, as a GPU's do.

    The interpreter multiplies with numpy's BLAS, which on some CPUs (AVX2 without AVX-512) sums row 6 of a
    tile in another order than row 5: such bits are the BLAS's, not the kernel's.
    """

    def matmul(a: np.ndarray, b: np.ndarray, dtype: np.dtype) -> np.ndarray:
        return (a[:, :, None] * b).sum(1, dtype)

    monkeypatch.setattr(np, "matmul", matmul)


@pytest.fixture
def assert_near() -> Callable[[Tensor, Tensor], None]:
    """Compares with a float64 result, to the precision of the tested dtype."""

    def check(actual: Tensor, expected: Tensor, factor: float = 1.0) -> None:
        assert expected.dtype == torch.float64
        tolerance = TOLERANCE[actual.dtype] * factor
        torch.testing.assert_close(actual.double(), expected, rtol=tolerance, atol=tolerance)

    return check


@dataclass
class PagedBatch:
    """A ragged batch over a poisoned cache: only tokens that a sequence holds are written."""

    q: Tensor
    k_cache: Tensor
    v_cache: Tensor
    block_tables: Tensor
    query_starts: Tensor
    context_lens: Tensor

    def args(self, dtype: torch.dtype | None = None) -> tuple[Tensor, ...]:
        q, k, v = (x.to(dtype or x.dtype) for x in (self.q, self.k_cache, self.v_cache))
        return q, k, v, self.block_tables, self.query_starts, self.context_lens


@pytest.fixture
def paged_batch() -> Callable[..., PagedBatch]:
    """Makes a batch from (query rows, context length) of each sequence."""

    def make(
        sequences: list[tuple[int, int]],
        *,
        heads: int = 4,
        kv_heads: int = 2,
        dim: int = 64,
        page_size: int = 16,
        dtype: torch.dtype = torch.float32,
        seed: int = 0,
    ) -> PagedBatch:
        generator = torch.Generator().manual_seed(seed)
        rows = torch.tensor([n for n, _ in sequences])
        contexts = torch.tensor([c for _, c in sequences])
        pages_of = -(-contexts // page_size)
        total = int(pages_of.sum())
        pages = torch.randperm(total, generator=generator).int() + 1
        tables = torch.full((len(sequences), int(pages_of.max()) + 2), -7, dtype=torch.int32)
        caches = torch.full((2, total + 1, kv_heads, page_size, dim), torch.nan)
        taken = 0
        for b, (count, context) in enumerate(zip(pages_of.tolist(), contexts.tolist(), strict=True)):
            tables[b, :count] = pages[taken : taken + count]
            taken += count
            at = torch.arange(context)
            page = tables[b].long()[at // page_size]
            caches[:, page, :, at % page_size] = torch.randn(context, 2, kv_heads, dim, generator=generator)
        starts = torch.cat((torch.zeros(1, dtype=torch.long), rows.cumsum(0))).int()
        q = torch.randn(int(rows.sum()), heads, dim, generator=generator)
        k, v = caches.to(dtype)
        return PagedBatch(q.to(dtype), k, v, tables, starts, contexts.int())

    return make
